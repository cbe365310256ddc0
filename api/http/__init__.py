"""What is below the handlers: addresses, connections, answers, and the outermost middleware."""
