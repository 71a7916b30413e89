"""Objects of the user, whose own methods may raise, lie or be slow; and where log lines go."""
