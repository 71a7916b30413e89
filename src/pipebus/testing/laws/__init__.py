"""The laws that every filter must keep, and the check that tries them."""
