"""Rules by which events of a webhook are sent, held back or dropped, and the state that they need.

`filtered_to` (before: `delivered_to`) is the position up to which events have been filtered. A
batch is stored in the row of its webhook with its whole body, in the statement that moves
`filtered_to`. So an event is in a batch, in the state of its device, or dropped, and never in two
of them.

`webhook_devices` and `webhook_groups` have what a webhook has to remember of a device and of a
group, as `api/webhooks/state.py` has it; `look_at` is when it has to be looked at again even if no
event comes. `presence_snoozes` says when no webhook is sent that devices of a group are offline.

A batch that was being sent before the upgrade is made again, with another id.
"""

from alembic import op

revision = "0010"
down_revision = "0009"


def _states(table: str, key: str) -> tuple[str, str]:
    return (
        f"""
        CREATE TABLE {table} (
            webhook_id bigint NOT NULL REFERENCES webhooks ON DELETE CASCADE,
            {key} NOT NULL,
            look_at timestamptz,
            state jsonb NOT NULL,
            PRIMARY KEY (webhook_id, {key.partition(" ")[0]})
        )
        """,
        f"CREATE INDEX {table}_due ON {table} (webhook_id, look_at) WHERE look_at IS NOT NULL",
    )


_UP = (
    "ALTER TABLE webhooks RENAME COLUMN delivered_to TO filtered_to",
    """
    UPDATE webhooks SET batch_id = NULL, batch_started_at = NULL, attempts = 0, retry_at = NULL
    WHERE batch_id IS NOT NULL
    """,
    """
    ALTER TABLE webhooks
        DROP COLUMN batch_end,
        ADD COLUMN batch_body text,
        ADD COLUMN batch_events integer NOT NULL DEFAULT 0,
        ADD COLUMN after_s integer CHECK (after_s > 0),
        ADD COLUMN quiet text,
        ADD COLUMN timezone text,
        ADD COLUMN quiet_until timestamptz
    """,
    *_states("webhook_devices", "device_id uuid"),
    *_states("webhook_groups", "group_id text"),
    """
    CREATE TABLE presence_snoozes (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        group_id text NOT NULL,
        began_at timestamptz NOT NULL DEFAULT now(),
        ends_at timestamptz NOT NULL
    )
    """,
    "CREATE INDEX presence_snoozes_group ON presence_snoozes (group_id, ends_at)",
)
_DOWN = (
    "DROP TABLE presence_snoozes",
    "DROP TABLE webhook_groups",
    "DROP TABLE webhook_devices",
    """
    ALTER TABLE webhooks DROP COLUMN batch_body, DROP COLUMN batch_events, DROP COLUMN after_s,
        DROP COLUMN quiet, DROP COLUMN timezone, DROP COLUMN quiet_until,
        ADD COLUMN batch_end bigint
    """,
    """
    UPDATE webhooks SET batch_id = NULL, batch_started_at = NULL, attempts = 0, retry_at = NULL
    WHERE batch_id IS NOT NULL
    """,
    "ALTER TABLE webhooks RENAME COLUMN filtered_to TO delivered_to",
)


def upgrade() -> None:
    """Create the columns and the tables."""
    for statement in _UP:  # one by one, because the driver prepares each statement
        op.execute(statement)


def downgrade() -> None:
    """Drop them; what is held back or in a batch is not sent then."""
    for statement in _DOWN:
        op.execute(statement)
