"""Real threads that run one at a time, change places where a seed says, and wait in virtual time."""
