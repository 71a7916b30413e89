"""What settings may be: quantities with units, models, expressions."""
