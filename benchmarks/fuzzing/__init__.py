"""Requests that nobody in their right mind would send, by the service's own document."""
