"""What is not ours: objects of the user, whose own methods may raise; packages that may be missing; where log lines go."""
