"""The queue of one subscription."""
