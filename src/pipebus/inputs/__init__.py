"""Reading records: JSON Lines and CSV."""
