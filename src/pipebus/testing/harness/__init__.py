"""The real bus in virtual time: one run in a test, or many runs with a seed each."""
