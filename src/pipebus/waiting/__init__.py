"""Waiting for one thing that somebody else gives, once."""
