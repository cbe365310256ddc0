"""The state of a running service, for somebody at a terminal; read over HTTP alone."""
