"""What settings may be: quantities with units, types that pydantic checks, expressions."""
