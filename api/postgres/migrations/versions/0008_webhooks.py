"""Webhooks: who is sent which events, how far, and what became of each delivery.

A row of `webhooks` holds all state of its deliveries, so any process can go on where another one
stopped. `delivered_to` is the position up to which events have been dealt with. A batch is written
down before it is sent first (`batch_id`, `batch_end`), so each try of it has the same events and
the same id. `leased_by` and `leased_until` say which process delivers just now.

The secret is readable, because each delivery is signed with it: let no other role read the table.
"""

from alembic import op

revision = "0008"
down_revision = "0007"

_UP = (
    """
    CREATE TABLE webhooks (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        url text NOT NULL,
        group_id text,
        types text[],
        secret text NOT NULL,
        previous_secret text,
        previous_secret_until timestamptz,
        created_at timestamptz NOT NULL DEFAULT now(),
        paused_at timestamptz,
        delivered_to bigint NOT NULL,
        batch_id text,
        batch_end bigint,
        batch_started_at timestamptz,
        attempts integer NOT NULL DEFAULT 0,
        retry_at timestamptz,
        last_error text,
        leased_by uuid,
        leased_until timestamptz NOT NULL DEFAULT '-infinity'
    )
    """,
    "REVOKE ALL ON webhooks FROM PUBLIC",
    """
    CREATE TABLE webhook_deliveries (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        webhook_id bigint NOT NULL REFERENCES webhooks ON DELETE CASCADE,
        message_id text NOT NULL,
        outcome text NOT NULL CHECK (outcome IN ('delivered', 'failed', 'expired')),
        events integer NOT NULL,
        attempts integer NOT NULL,
        status integer,
        error text,
        started_at timestamptz,
        ended_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX webhook_deliveries_webhook ON webhook_deliveries (webhook_id, id)",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in _UP:  # one by one, because the driver prepares each statement
        op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TABLE webhook_deliveries")
    op.execute("DROP TABLE webhooks")
