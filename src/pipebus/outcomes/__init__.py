"""What became of messages: counts, observers, dead letters."""
