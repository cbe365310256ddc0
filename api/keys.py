"""API keys: made, listed, revoked, and looked up by their hash.

A key has 256 random bits, so a plain SHA-256 is a safe thing to store. The hash is also what caches
are keyed by: nothing compares or keeps the key itself.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final, TypeAlias

import msgspec

from api.database import Database

_PREFIX_LENGTH: Final = 10
"""How much of a key is stored in the clear, to tell keys apart: `ak_` and 42 of its 256 bits."""


KeyName: TypeAlias = Annotated[
    str, msgspec.Meta(min_length=2, max_length=50, pattern=r"^[^\x00-\x1f\x7f-\x9f]*\Z")
]


@dataclass(frozen=True, slots=True)
class Principal:
    """Whom a request is from.

    Args:
        key_id: the API key's id.
        group_id: the one group that the key may reach; None for all.
    """

    key_id: int
    group_id: str | None


@dataclass(frozen=True, slots=True)
class StoredKey:
    """A key as it is listed; all times are aware, in UTC."""

    id: int
    prefix: str
    name: str
    group_id: str | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


def hash_key(key: str) -> bytes:
    """Return what is stored of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


async def create_key(database: Database, name: str, group_id: str | None) -> str:
    """Make a key and return it; it cannot be shown again.

    Args:
        database: where its hash is stored.
        name: what it is for.
        group_id: the one group that it may reach; None for all.

    Raises:
        StoreError: the database is away, or refuses the name or the group.
    """
    key = f"ak_{secrets.token_urlsafe(32)}"
    await database.fetch(
        "INSERT INTO api_keys (key_hash, prefix, name, group_id) VALUES ($1, $2, $3, $4)",
        hash_key(key),
        key[:_PREFIX_LENGTH],
        name,
        group_id,
    )
    return key


async def list_keys(database: Database) -> list[StoredKey]:
    """Return all keys, the oldest first.

    Raises:
        StoreError: the database is away.
    """
    rows = await database.fetch(
        "SELECT id, prefix, name, group_id, created_at, last_used_at, revoked_at "
        "FROM api_keys ORDER BY id"
    )
    return [StoredKey(*row) for row in rows]


async def find_keys(database: Database, which: str) -> list[StoredKey]:
    """Return the active key with an id or a prefix, or the key itself; else those with a name.

    Args:
        database: where keys are stored.
        which: an id, a prefix as listed, a key, or a name.

    Raises:
        StoreError: the database is away.
    """
    active = [key for key in await list_keys(database) if key.revoked_at is None]
    exact = [key for key in active if which == str(key.id) or which.startswith(key.prefix)]
    return exact or [key for key in active if key.name == which]


async def revoke_key(database: Database, key_id: int) -> None:
    """Revoke a key for good.

    Raises:
        StoreError: the database is away.
    """
    await database.fetch(
        "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", key_id
    )


async def load_principals(database: Database, hashes: list[bytes]) -> dict[bytes, Principal]:
    """Return whom the valid ones of some key hashes stand for.

    Args:
        database: where keys are stored.
        hashes: hashes of keys.

    Raises:
        StoreError: the database is away.
    """
    rows = await database.fetch(
        "SELECT key_hash, id, group_id FROM api_keys "
        "WHERE key_hash = ANY($1::bytea[]) AND revoked_at IS NULL",
        hashes,
    )
    return {row[0]: Principal(row[1], row[2]) for row in rows}
