"""Run by Alembic: applies the migrations on a given connection, in its transaction."""

from alembic import context

from api.postgres.revisions import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
context.run_migrations()
