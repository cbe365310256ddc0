"""HTTP below the handlers: listeners, connections, responses, limits, the outermost middleware."""
