"""API keys may expire: a time from which on a key is denied, by the database's clock."""

from alembic import op

revision = "0002"
down_revision = "0001"

_TRIGGER = """
    CREATE OR REPLACE TRIGGER key_revision
    AFTER INSERT OR DELETE OR TRUNCATE OR UPDATE OF {columns} ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION count_key_revision()
"""


def upgrade() -> None:
    """Add the column; an update of it counts as a change of keys."""
    op.execute("ALTER TABLE api_keys ADD COLUMN expires_at timestamptz")
    op.execute(_TRIGGER.format(columns="key_hash, group_id, revoked_at, expires_at"))


def downgrade() -> None:
    """Drop the column. Keys with an expiry are revoked: else they would be valid for ever."""
    op.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE expires_at IS NOT NULL AND revoked_at IS NULL"
    )
    op.execute(_TRIGGER.format(columns="key_hash, group_id, revoked_at"))
    op.execute("ALTER TABLE api_keys DROP COLUMN expires_at")
