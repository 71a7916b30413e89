"""One filter or one handler alone."""
