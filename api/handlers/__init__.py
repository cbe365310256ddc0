"""Handlers of the routes: a file for each kind of route, and what they share."""
