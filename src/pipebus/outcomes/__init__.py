"""What happened to messages: counts, observers, dead letters."""
