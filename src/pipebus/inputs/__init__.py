"""Reading the records of a file: JSON Lines or CSV."""
