"""The runners of handlers: threads, event loops, timers."""
