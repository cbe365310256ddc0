"""Helpers of the tests: a service to test, servers that fail on command, pages and browsers."""
