"""The way to Postgres: connections, the embedded server, migrations."""
