"""Who runs handlers: threads, event loops, timers."""
