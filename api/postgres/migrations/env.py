"""Run by Alembic: applies the migrations on the connection, and in the transaction, it is given."""

from alembic import context

from api.postgres.revisions import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
