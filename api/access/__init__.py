"""Authentication: API keys, which devices they may access, and the caches of both."""
