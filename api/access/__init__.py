"""Who is let in: API keys, what they reach, and the caches that spare the database the question."""
