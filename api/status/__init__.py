"""The state of a running service, for an operator at a terminal; read over HTTP alone."""
