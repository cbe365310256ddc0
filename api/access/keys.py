"""API keys: create, list, revoke, and look up by hash.

A key has 256 random bits, so its plain SHA-256 is safe to store. Caches use the hash, too: nothing
compares or keeps the key itself. A text that does not have the form of a key is not hashed.
"""

import re
import secrets
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from api.postgres.clock import DatabaseClock
from api.postgres.database import Database

# The interpreter's own: for so few bytes OpenSSL's, which hashlib prefers, takes twice as long.
try:
    if sys.version_info >= (3, 12):
        from _sha2 import sha256
    else:
        from _sha256 import sha256  # type: ignore[import-not-found]
except ImportError:
    from hashlib import sha256

_BYTES: Final = 32
_LENGTH: Final = len("ak_") + 43
_SHAPE: Final = re.compile(r"ak_[A-Za-z0-9_-]{43}").fullmatch
"""The length of what `secrets.token_urlsafe` returns for so many bytes."""
_PREFIX_LENGTH: Final = 10
"""The length of the prefix, which is stored in plain text: `ak_` and 42 of the 256 bits."""


KeyName: TypeAlias = Annotated[
    str, msgspec.Meta(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")
]
_LISTED: Final = """
SELECT id, prefix, name, group_id, created_at, last_used_at, expires_at, revoked_at,
       expires_at <= now() IS TRUE
FROM api_keys
"""
_FOUND: Final = "WHERE id::text = $1 OR prefix = $1 OR name = $1 OR key_hash = $2 "
_ORDER: Final = "ORDER BY id"
_VALID: Final = """
SELECT key_hash, id, group_id, extract(epoch FROM coalesce(expires_at, 'infinity'))::float8,
       extract(epoch FROM now())::float8
FROM api_keys
WHERE revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""
_VALID_OF_HASHES: Final = f"{_VALID} AND key_hash = ANY($1::bytea[])"
_VALID_PAGE: Final = f"{_VALID} AND id > $1 ORDER BY id LIMIT $2"
_PAGE_KEYS: Final = 1000


@dataclass(frozen=True, slots=True)
class Principal:
    """The API key of a request.

    Args:
        key_id: the API key's id.
        group_id: the group that the key may access; None for all.
        expires_at: when it expires, in epoch seconds by the database's clock; infinity if never.
    """

    key_id: int
    group_id: str | None
    expires_at: float


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is listed; all times are aware, in UTC."""

    id: int
    prefix: str
    name: str
    group_id: str | None
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    has_expired: bool
    """By the database's clock, at the time of the query."""

    @property
    def state(self) -> Literal["active", "expired", "revoked"]:
        """`active`, `revoked` or `expired`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.has_expired else "active"


def hash_key(key: str) -> bytes | None:
    """Return the hash of a key; None for a text that cannot be a key."""
    return sha256(key.encode()).digest() if _SHAPE(key) else None


def quick_hash(text: str) -> bytes | None:
    """Return the hash of a key; for another text None, or a hash that no key has.

    It does not check each character as `hash_key` does. Most requests find their key in the cache
    by it.
    """
    return sha256(text.encode()).digest() if len(text) == _LENGTH and text.isascii() else None


async def create_key(
    database: Database, name: str, group_id: str | None, *, valid_s: int | None = None
) -> str:
    """Create a key and return it; see `create_keys`."""
    (key,) = await create_keys(database, [name], group_id, valid_s=valid_s)
    return key


async def create_keys(
    database: Database, names: Sequence[str], group_id: str | None, *, valid_s: int | None = None
) -> list[str]:
    """Create keys, all or none, and return them; they cannot be shown again.

    Args:
        database: where their hashes are stored.
        names: a name for each key.
        group_id: the group that the keys may access; None for all.
        valid_s: seconds until they expire, by the database's clock; None if never.

    Returns:
        The keys in the order of their names.

    Raises:
        StoreError: the database is unavailable, or rejects a name or the group.
    """
    keys = [f"ak_{secrets.token_urlsafe(_BYTES)}" for _ in names]
    await database.fetch(
        "INSERT INTO api_keys (key_hash, prefix, name, group_id, expires_at) "
        "SELECT key_hash, prefix, name, $4, now() + make_interval(secs => $5) "
        "FROM unnest($1::bytea[], $2::text[], $3::text[]) WITH ORDINALITY "
        "AS given (key_hash, prefix, name, place) ORDER BY place",
        [hash_key(key) for key in keys],
        [key[:_PREFIX_LENGTH] for key in keys],
        list(names),
        group_id,
        valid_s,
    )
    return keys


async def list_keys(database: Database) -> list[StoredKey]:
    """Return all keys, the oldest first.

    Raises:
        StoreError: the database is unavailable.
    """
    rows = await database.fetch(_LISTED + _ORDER)
    return [StoredKey(*row) for row in rows]


async def find_keys(database: Database, which: str) -> list[StoredKey]:
    """Return the keys with this id, prefix or name, or the key itself.

    Only the hash of a key is sent: Postgres may log the parameters of statements.

    Args:
        database: where keys are stored.
        which: an id, a prefix as listed, a key, or a name.

    Raises:
        StoreError: the database is unavailable.
    """
    hashed = hash_key(which)
    rows = await database.fetch(
        _LISTED + _FOUND + _ORDER, which if hashed is None else None, hashed
    )
    return [StoredKey(*row) for row in rows]


async def revoke_key(database: Database, key_id: int) -> None:
    """Revoke a key permanently; the time of an earlier revocation does not change.

    Raises:
        StoreError: the database is unavailable.
    """
    await database.fetch(
        "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", key_id
    )


async def load_principals(
    database: Database, clock: DatabaseClock, hashes: list[bytes]
) -> dict[bytes, Principal]:
    """Return the principals of the valid keys among some hashes, and set the clock.

    Args:
        database: where keys are stored.
        clock: receives the database's time.
        hashes: hashes of keys.

    Raises:
        StoreError: the database is unavailable.
    """
    asked_at = clock.monotonic()
    rows = await database.fetch(_VALID_OF_HASHES, hashes)
    if rows:
        clock.set(rows[0][4], asked_at=asked_at)
    return {row[0]: Principal(row[1], row[2], row[3]) for row in rows}


async def load_all_principals(
    database: Database, clock: DatabaseClock
) -> AsyncIterator[tuple[bytes, Principal]]:
    """Yield the hash and the principal of each valid API key, and set the clock.

    Args:
        database: where keys are stored.
        clock: receives the database's time.

    Raises:
        StoreError: the database is unavailable.
    """
    after, rows = 0, None
    while rows is None or len(rows) == _PAGE_KEYS:
        asked_at = clock.monotonic()
        rows = await database.fetch(_VALID_PAGE, after, _PAGE_KEYS)
        for hashed, key_id, group_id, expires_at, now in rows:
            clock.set(now, asked_at=asked_at)
            yield hashed, Principal(key_id, group_id, expires_at)
            after = key_id
