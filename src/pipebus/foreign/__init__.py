"""What is not ours: objects of the user's whose own methods may raise, lie or be slow."""
