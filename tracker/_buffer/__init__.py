"""Pending touches: the buffer that holds them, and views of it to overlay on rows."""
