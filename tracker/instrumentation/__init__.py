"""Counting and logging at a cost that a request does not notice."""
