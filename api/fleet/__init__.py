"""The fleet in the database: devices, their groups, and where they reported from."""
