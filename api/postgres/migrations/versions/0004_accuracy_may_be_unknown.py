"""A report's accuracy may be unknown: iOS then sends a negative value, which is stored as null."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Allow null."""
    op.execute("ALTER TABLE locations ALTER COLUMN accuracy DROP NOT NULL")


def downgrade() -> None:
    """Store an unknown accuracy as 0, because the column does not allow null."""
    op.execute("UPDATE locations SET accuracy = 0 WHERE accuracy IS NULL")
    op.execute("ALTER TABLE locations ALTER COLUMN accuracy SET NOT NULL")
