"""How many devices are in each state, counted by one process for all.

A count reads the whole table. So the process that finds it due counts, stores the numbers here, and
says when the next count is due; the processes of all nodes show these numbers.
"""

from alembic import op

revision = "0009"
down_revision = "0008"

_UP = (
    """
    CREATE TABLE device_counts (
        id integer PRIMARY KEY CHECK (id = 1),
        counted_at timestamptz NOT NULL DEFAULT '-infinity',
        due_at timestamptz NOT NULL DEFAULT '-infinity',
        online bigint NOT NULL DEFAULT 0,
        idle bigint NOT NULL DEFAULT 0,
        offline bigint NOT NULL DEFAULT 0,
        never bigint NOT NULL DEFAULT 0
    )
    """,
    "INSERT INTO device_counts VALUES (1)",
)


def upgrade() -> None:
    """Create the table and its row."""
    for statement in _UP:  # one by one, because the driver prepares each statement
        op.execute(statement)


def downgrade() -> None:
    """Drop it."""
    op.execute("DROP TABLE device_counts")
