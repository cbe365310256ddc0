"""What is pending: the buffer that touches go to, and views that readers lay over rows."""
