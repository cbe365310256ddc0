"""Presence of devices, and events of it.

The state of a device is in its row: whether it is online, since when, and the number of its last
event. No index covers these columns nor the time that a touch writes, so touches stay HOT updates.
One trigger changes the state of a device that comes back, is moved or (de)activated, in the
transaction that does so; its condition keeps it from being called for other touches. It runs after
the update and changes the row once more: where a trigger runs before an update, Postgres locks each
row first, which costs all touches a fifth of their time and half of their WAL. `is_online` is null
until the state of a device is known: it is for rows from before this revision.

An event is written to `event_outbox` in the transaction of its change. It is then moved to
`device_events` and gets its position there, one transaction at a time. So positions become visible
in their order, and a reader that has seen one misses none before it.

`presence_clock` says until when some process was listening, `listening_gaps` when none was.

The function runs with the rights of its owner, so a role needs no right on the outbox.
"""

from alembic import op

revision = "0007"
down_revision = "0006"

_RANGE = "offline_after_s BETWEEN 30 AND 604800"
_UP = (
    f"""
    ALTER TABLE devices
        ADD COLUMN is_online boolean,
        ADD COLUMN presence_since timestamptz,
        ADD COLUMN event_seq bigint NOT NULL DEFAULT 0,
        ADD COLUMN offline_after_s integer CHECK ({_RANGE})
    """,
    f"""
    CREATE TABLE group_settings (
        group_id text PRIMARY KEY,
        offline_after_s integer CHECK ({_RANGE}),
        changed_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE presence_clock (
        id integer PRIMARY KEY CHECK (id = 1),
        listened_until timestamptz NOT NULL,
        offline_after_s integer NOT NULL
    )
    """,
    "INSERT INTO presence_clock VALUES (1, '-infinity', 900)",
    """
    CREATE TABLE listening_gaps (
        began_at timestamptz PRIMARY KEY,
        ended_at timestamptz NOT NULL
    )
    """,
    """
    CREATE TABLE event_outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        device_id uuid NOT NULL,
        seq bigint NOT NULL,
        type text NOT NULL,
        group_id text NOT NULL,
        at timestamptz NOT NULL,
        data jsonb NOT NULL DEFAULT '{}',
        written_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE device_events (
        position bigint PRIMARY KEY,
        device_id uuid NOT NULL,
        seq bigint NOT NULL,
        type text NOT NULL,
        group_id text NOT NULL,
        at timestamptz NOT NULL,
        data jsonb NOT NULL,
        stored_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX device_events_group ON device_events (group_id, position)",
    "CREATE INDEX device_events_device ON device_events (device_id, position)",
    """
    CREATE TABLE event_position (
        id integer PRIMARY KEY CHECK (id = 1),
        last bigint NOT NULL,
        removed bigint NOT NULL
    )
    """,
    "INSERT INTO event_position VALUES (1, 0, 0)",
    """
    CREATE FUNCTION note_presence() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    DECLARE
        is_back boolean;
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO event_outbox (device_id, seq, type, group_id, at)
            VALUES (NEW.device_id, NEW.event_seq, 'device.registered', NEW.group_id,
                    NEW.last_seen_at);
            RETURN NULL;
        END IF;
        -- What is assigned to NEW is written by the UPDATE at the end.
        IF OLD.is_active AND NOT NEW.is_active THEN
            NEW.is_online := false;
            NEW.presence_since := date_trunc('second', now());
            NEW.event_seq := NEW.event_seq + 1;
            INSERT INTO event_outbox (device_id, seq, type, group_id, at)
            VALUES (NEW.device_id, NEW.event_seq, 'device.deactivated', NEW.group_id,
                    NEW.presence_since);
        ELSIF NEW.is_active AND NOT OLD.is_active THEN
            NEW.is_online := true;
            NEW.presence_since := NEW.last_seen_at;
            NEW.event_seq := NEW.event_seq + 1;
            INSERT INTO event_outbox (device_id, seq, type, group_id, at)
            VALUES (NEW.device_id, NEW.event_seq, 'device.registered', NEW.group_id,
                    coalesce(NEW.last_seen_at, now()));
        ELSIF NEW.is_active THEN
            IF NEW.group_id <> OLD.group_id THEN
                NEW.event_seq := NEW.event_seq + 1;
                INSERT INTO event_outbox (device_id, seq, type, group_id, at, data)
                VALUES (NEW.device_id, NEW.event_seq, 'device.moved', NEW.group_id,
                        date_trunc('second', now()),
                        jsonb_build_object('from_group_id', OLD.group_id));
            END IF;
            is_back := OLD.is_online IS NOT TRUE
                       AND NEW.last_seen_at IS DISTINCT FROM OLD.last_seen_at;
            -- A touch that is written late, as from a journal, may be as old as the silence. The
            -- others are younger than the shortest timeout: the lookup costs more than the rest.
            IF is_back AND NEW.last_seen_at <= now() - interval '30 s' THEN
                is_back := NEW.last_seen_at + make_interval(secs => coalesce(
                    NEW.offline_after_s,
                    (SELECT offline_after_s FROM group_settings WHERE group_id = NEW.group_id),
                    (SELECT offline_after_s FROM presence_clock)
                )) > now();
            END IF;
            IF is_back THEN
                NEW.is_online := true;
                NEW.presence_since := NEW.last_seen_at;
                -- Whether a device was offline before this revision is not known.
                IF OLD.is_online IS FALSE OR OLD.last_seen_at IS NULL THEN
                    NEW.event_seq := NEW.event_seq + 1;
                    INSERT INTO event_outbox (device_id, seq, type, group_id, at, data)
                    VALUES (NEW.device_id, NEW.event_seq, 'device.online', NEW.group_id,
                            NEW.last_seen_at,
                            jsonb_build_object('offline_for_s', greatest(0, extract(
                                epoch FROM NEW.last_seen_at - OLD.presence_since)::bigint)));
                END IF;
            END IF;
        END IF;
        -- None of these columns is a trigger's, so Postgres parses no condition for this UPDATE.
        UPDATE devices SET is_online = NEW.is_online, presence_since = NEW.presence_since,
            event_seq = NEW.event_seq
        WHERE device_id = NEW.device_id AND (is_online, presence_since, event_seq)
            IS DISTINCT FROM (NEW.is_online, NEW.presence_since, NEW.event_seq);
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE FUNCTION begin_presence() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.is_online := true;
        NEW.presence_since := NEW.last_seen_at;
        NEW.event_seq := 1;
        RETURN NEW;
    END
    $$
    """,
    """
    CREATE TRIGGER presence_begins BEFORE INSERT ON devices FOR EACH ROW
    WHEN (NEW.is_active AND NEW.last_seen_at IS NOT NULL) EXECUTE FUNCTION begin_presence()
    """,
    """
    CREATE TRIGGER presence_registered AFTER INSERT ON devices FOR EACH ROW
    WHEN (NEW.is_active AND NEW.last_seen_at IS NOT NULL) EXECUTE FUNCTION note_presence()
    """,
    """
    CREATE TRIGGER presence_changes
    AFTER UPDATE OF last_seen_at, is_active, group_id ON devices FOR EACH ROW
    WHEN ((OLD.is_online IS NOT TRUE AND NEW.last_seen_at IS DISTINCT FROM OLD.last_seen_at)
          OR OLD.is_active <> NEW.is_active OR OLD.group_id <> NEW.group_id)
    EXECUTE FUNCTION note_presence()
    """,
    "DROP TRIGGER device_changed ON devices",
    """
    CREATE TRIGGER device_changed
    AFTER UPDATE OF device_id, group_id, is_active, offline_after_s ON devices FOR EACH ROW
    WHEN ((OLD.device_id, OLD.group_id, OLD.is_active, OLD.offline_after_s)
          IS DISTINCT FROM (NEW.device_id, NEW.group_id, NEW.is_active, NEW.offline_after_s))
    EXECUTE FUNCTION note_device_change()
    """,
)
_DOWN = (
    "DROP TRIGGER device_changed ON devices",
    """
    CREATE TRIGGER device_changed AFTER UPDATE OF device_id, group_id, is_active ON devices
    FOR EACH ROW
    WHEN ((OLD.device_id, OLD.group_id, OLD.is_active)
          IS DISTINCT FROM (NEW.device_id, NEW.group_id, NEW.is_active))
    EXECUTE FUNCTION note_device_change()
    """,
    "DROP TRIGGER presence_changes ON devices",
    "DROP TRIGGER presence_registered ON devices",
    "DROP TRIGGER presence_begins ON devices",
    "DROP FUNCTION begin_presence",
    "DROP FUNCTION note_presence",
    "DROP TABLE event_position",
    "DROP TABLE device_events",
    "DROP TABLE event_outbox",
    "DROP TABLE listening_gaps",
    "DROP TABLE presence_clock",
    "DROP TABLE group_settings",
    """
    ALTER TABLE devices DROP COLUMN is_online, DROP COLUMN presence_since,
        DROP COLUMN event_seq, DROP COLUMN offline_after_s
    """,
)


def upgrade() -> None:
    """Create the tables, the functions and the triggers."""
    for statement in _UP:  # one by one, because the driver prepares each statement
        op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    for statement in _DOWN:
        op.execute(statement)
