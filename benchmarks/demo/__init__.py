"""The demo: the sample fleet, replayed through the whole service."""
