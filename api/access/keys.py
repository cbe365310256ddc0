"""API keys: made, listed, revoked, and looked up by their hash.

A key has 256 random bits, so a plain SHA-256 is a safe thing to store. The hash is also what caches
are keyed by: nothing compares or keeps the key itself. Of a text that has not even the shape of a
key no hash is made.
"""

import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from api.postgres.clock import DatabaseClock
from api.postgres.database import Database

_BYTES: Final = 32
_SHAPE: Final = re.compile(r"ak_[A-Za-z0-9_-]{43}").fullmatch
"""What `secrets.token_urlsafe` makes of so many bytes."""
_PREFIX_LENGTH: Final = 10
"""How much of a key is stored in the clear, to tell keys apart: `ak_` and 42 of its 256 bits."""


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
    """Whom a request is from.

    Args:
        key_id: the API key's id.
        group_id: the one group that the key may reach; None for all.
        expires_at: when it ends to be valid, in epoch seconds by the database's clock; infinity if
            never.
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
    """By the database's clock, when it was asked."""

    @property
    def state(self) -> Literal["active", "expired", "revoked"]:
        """Whether it is let in, and why not."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.has_expired else "active"


def hash_key(key: str) -> bytes | None:
    """Return what is stored of a key; None for what cannot be one."""
    return hashlib.sha256(key.encode()).digest() if _SHAPE(key) else None


async def create_key(
    database: Database, name: str, group_id: str | None, *, valid_s: int | None = None
) -> str:
    """Make a key and return it; see `create_keys`."""
    (key,) = await create_keys(database, [name], group_id, valid_s=valid_s)
    return key


async def create_keys(
    database: Database, names: Sequence[str], group_id: str | None, *, valid_s: int | None = None
) -> list[str]:
    """Make keys, all or none, and return them; they cannot be shown again.

    Args:
        database: where their hashes are stored.
        names: what each is for.
        group_id: the one group that they may reach; None for all.
        valid_s: seconds until they expire, by the database's clock; None if never.

    Returns:
        The keys in the order of their names.

    Raises:
        StoreError: the database is unavailable, or refuses a name or the group.
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
    """Return the keys that an id, a prefix or a name stands for, or a key itself.

    Of a key only its hash is sent: Postgres may log the parameters of statements.

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
    """Revoke a key for good; one that is revoked already stays so since then.

    Raises:
        StoreError: the database is unavailable.
    """
    await database.fetch(
        "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", key_id
    )


async def load_principals(
    database: Database, clock: DatabaseClock, hashes: list[bytes]
) -> dict[bytes, Principal]:
    """Return whom the valid ones of some key hashes stand for, and set the clock.

    Args:
        database: where keys are stored.
        clock: what is to know when they expire.
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
