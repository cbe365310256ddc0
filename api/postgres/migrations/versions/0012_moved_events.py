"""An index of the events of devices that left a group, which its API keys may read as well.

It has only these events, which are few.
"""

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    """Create the index."""
    op.execute(
        "CREATE INDEX device_events_left ON device_events ((data ->> 'from_group_id'), position) "
        "WHERE type = 'device.moved'"
    )


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP INDEX device_events_left")
