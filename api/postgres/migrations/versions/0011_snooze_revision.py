"""A number in the row of a webhook that changes when its events are to be filtered otherwise.

What was filtered before a snooze was ended must not be stored after it: the devices that it holds
back would be looked at only when the snooze should have ended.
"""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Add the column."""
    op.execute("ALTER TABLE webhooks ADD COLUMN rules_revision bigint NOT NULL DEFAULT 0")


def downgrade() -> None:
    """Drop it."""
    op.execute("ALTER TABLE webhooks DROP COLUMN rules_revision")
