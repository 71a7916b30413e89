"""Wait for another thread: locks, a value that is given once, a call that runs elsewhere."""
