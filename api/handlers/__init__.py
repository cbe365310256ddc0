"""What answers the routes: one file for each kind, and what they share."""
