"""Devices, API keys and locations.

The two tracked tables leave half of each page free, so that a touch is a heap-only update: the new
row version fits on the old one's page and no index is written. For the same reason no index
has a tracked timestamp, and the trigger on keys names its columns: a touch must not fire it.
"""

from alembic import op

revision = "0001"
down_revision = None

_UP = (
    """
    CREATE TABLE devices (
        device_id uuid PRIMARY KEY,
        display_name text NOT NULL,
        group_id text NOT NULL,
        platform text NOT NULL,
        fcm_token text,
        is_active boolean NOT NULL DEFAULT true,
        created_at timestamptz NOT NULL DEFAULT now(),
        last_seen_at timestamptz
    ) WITH (fillfactor = 50)
    """,
    "CREATE INDEX devices_listing ON devices (group_id, display_name, device_id) WHERE is_active",
    """
    CREATE TABLE api_keys (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        key_hash bytea NOT NULL UNIQUE,
        prefix text NOT NULL,
        name text NOT NULL,
        group_id text,
        created_at timestamptz NOT NULL DEFAULT now(),
        revoked_at timestamptz,
        last_used_at timestamptz
    ) WITH (fillfactor = 50)
    """,
    # The primary key also serves the query of a device's newest position.
    """
    CREATE TABLE locations (
        device_id uuid NOT NULL REFERENCES devices ON DELETE CASCADE,
        captured_at timestamptz NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now(),
        latitude double precision NOT NULL,
        longitude double precision NOT NULL,
        accuracy double precision NOT NULL,
        altitude double precision,
        bearing double precision,
        speed double precision,
        provider text,
        battery_level double precision,
        network_type text,
        PRIMARY KEY (device_id, captured_at)
    )
    """,
    # A row, not a sequence: it must change in the same transaction as the keys, or a reader
    # could see the new number, read the old keys, and believe them.
    "CREATE TABLE key_revision (revision bigint NOT NULL)",
    "INSERT INTO key_revision VALUES (0)",
    """
    CREATE FUNCTION count_key_revision() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        UPDATE key_revision SET revision = revision + 1;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER key_revision
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF key_hash, group_id, revoked_at ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION count_key_revision()
    """,
)


def upgrade() -> None:
    """Make the tables."""
    for statement in _UP:  # one by one, because the driver prepares each statement
        op.execute(statement)


def downgrade() -> None:
    """Drop the tables, with everything in them."""
    op.execute("DROP TABLE locations, devices, api_keys, key_revision")
    op.execute("DROP FUNCTION count_key_revision")
