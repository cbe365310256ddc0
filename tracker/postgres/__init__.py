"""Postgres: connections, the driver's errors as ours, and the UPDATE that writes touches."""
