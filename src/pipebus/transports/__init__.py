"""What carries messages: one transport per file."""
