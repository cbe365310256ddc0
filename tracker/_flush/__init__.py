"""Flushing: when to write, in which order, and what became of each key."""
