"""A report's accuracy may be unknown: iOS sends a negative one then, which is stored as null."""

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Allow null."""
    op.execute("ALTER TABLE locations ALTER COLUMN accuracy DROP NOT NULL")


def downgrade() -> None:
    """Store an unknown accuracy as 0, as it has to be something."""
    op.execute("UPDATE locations SET accuracy = 0 WHERE accuracy IS NULL")
    op.execute("ALTER TABLE locations ALTER COLUMN accuracy SET NOT NULL")
