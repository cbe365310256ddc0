"""The time of a device's deactivation, to release its id; a primary key of `key_revision`.

Without a primary key the table could not be updated once a publication includes all tables, and no
API key could be revoked any more.
"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add the columns; devices that are inactive already count as deactivated now."""
    op.execute("ALTER TABLE devices ADD COLUMN deactivated_at timestamptz")
    op.execute("UPDATE devices SET deactivated_at = now() WHERE NOT is_active")
    op.execute(
        "ALTER TABLE key_revision "
        "ADD COLUMN only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)"
    )


def downgrade() -> None:
    """Drop the columns."""
    op.execute("ALTER TABLE key_revision DROP COLUMN only_row")
    op.execute("ALTER TABLE devices DROP COLUMN deactivated_at")
