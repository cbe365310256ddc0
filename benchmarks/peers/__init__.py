"""Other systems that track activity in batches."""
