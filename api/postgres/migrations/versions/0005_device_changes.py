"""Changes of devices, for the processes that keep all active devices in memory.

A trigger records each device that is created, removed, moved or (de)activated, and the transaction.
A reader selects all changes since the oldest transaction that was in progress at its last read, and
so misses none, whatever the order of commits. A touch does not fire the trigger, which names its
columns. A row with a null device means that all devices may have changed.

The function runs with the rights of its owner, so a role needs no right on the table.
"""

from alembic import op

revision = "0005"
down_revision = "0004"

_UP = (
    """
    CREATE TABLE device_changes (
        transaction xid8 NOT NULL DEFAULT pg_current_xact_id(),
        id bigint GENERATED ALWAYS AS IDENTITY,
        device_id uuid,
        changed_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (transaction, id)
    )
    """,
    """
    CREATE FUNCTION note_device_change() RETURNS trigger
    LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
    BEGIN
        IF TG_LEVEL = 'STATEMENT' THEN
            INSERT INTO device_changes (device_id) VALUES (NULL);
        ELSIF TG_OP = 'DELETE' THEN
            INSERT INTO device_changes (device_id) VALUES (OLD.device_id);
        ELSE
            INSERT INTO device_changes (device_id) VALUES (NEW.device_id);
            IF TG_OP = 'UPDATE' AND NEW.device_id <> OLD.device_id THEN
                INSERT INTO device_changes (device_id) VALUES (OLD.device_id);
            END IF;
        END IF;
        RETURN NULL;
    END
    $$
    """,
    """
    CREATE TRIGGER device_changed_rows AFTER INSERT OR DELETE ON devices
    FOR EACH ROW EXECUTE FUNCTION note_device_change()
    """,
    """
    CREATE TRIGGER device_changed AFTER UPDATE OF device_id, group_id, is_active ON devices
    FOR EACH ROW
    WHEN ((OLD.device_id, OLD.group_id, OLD.is_active)
          IS DISTINCT FROM (NEW.device_id, NEW.group_id, NEW.is_active))
    EXECUTE FUNCTION note_device_change()
    """,
    """
    CREATE TRIGGER devices_truncated AFTER TRUNCATE ON devices
    FOR EACH STATEMENT EXECUTE FUNCTION note_device_change()
    """,
)


def upgrade() -> None:
    """Create the table, the function and the triggers."""
    for statement in _UP:  # one by one, because the driver prepares each statement
        op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TRIGGER device_changed_rows ON devices")
    op.execute("DROP TRIGGER device_changed ON devices")
    op.execute("DROP TRIGGER devices_truncated ON devices")
    op.execute("DROP FUNCTION note_device_change")
    op.execute("DROP TABLE device_changes")
