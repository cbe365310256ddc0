"""API keys: their entropy, their revocation, and that a lookup reveals nothing of them."""

import asyncio
import base64
import csv
import hashlib
import json
import time
from types import SimpleNamespace

import pytest

from api.access.keys import Principal, create_key, hash_key, quick_hash
from api.access.lookup import CachedLookup
from api.access.revocations import Revocations
from api.config import AuthSettings, DatabaseSettings
from api.http.responses import ApiError
from api.postgres.clock import DatabaseClock
from api.postgres.database import Database, open_database
from api.siblings import Alone
from tests.support.command_line import run, serving
from tests.support.key_denials import ATTEMPTS, HEARTBEAT, PROMISED_S, refused_after


@pytest.fixture
async def database(dsn):
    async with open_database(dsn, DatabaseSettings(), connections=1) as database:
        yield database


def secret_of(key: str) -> bytes:
    return base64.urlsafe_b64decode(key.removeprefix("ak_") + "=")


async def test_a_key_has_256_random_bits_of_which_42_are_listed(database, db):
    """Each of the bits is now 0 and now 1; more than 192 are nowhere but in the key."""
    keys = [await create_key(database, "many", None) for _ in range(64)]
    secrets = [int.from_bytes(secret_of(key)) for key in keys]
    ones = zeros = 0
    for secret in secrets:
        ones, zeros = ones | secret, zeros | ~secret
    assert ones & zeros & (1 << 256) - 1 == (1 << 256) - 1
    assert {len(secret_of(key)) * 8 for key in keys} == {256}
    listed = await db.fetchval("SELECT max(length(prefix)) FROM api_keys")
    assert 256 - 6 * (listed - len("ak_")) >= 192


async def test_the_poll_for_revoked_keys_sets_the_clock(database, db, monkeypatch):
    """So the host's clock does not matter, whether it is ahead or behind."""
    monkeypatch.setattr(time, "time", lambda: 0.0)
    clock = DatabaseClock()
    keys: CachedLookup[bytes, object] = CachedLookup(
        "keys", lambda _: asyncio.sleep(0, {}), AuthSettings()
    )
    before = await db.fetchval("SELECT extract(epoch FROM now())::float8")
    watching = asyncio.create_task(Revocations(database, keys, clock, Alone(), every_s=0.01).poll())
    async with asyncio.timeout(30):
        while clock.now() < before:
            await asyncio.sleep(0.01)
    watching.cancel()
    assert clock.now() <= 30 + await db.fetchval("SELECT extract(epoch FROM now())::float8")


async def test_every_process_denies_a_revoked_key_within_a_second_also_if_disconnected(dsn, db):
    """Two services on one database, whose connections are cut at the same time, all of them."""
    async with serving(dsn) as (_, one), serving(dsn) as (_, other), asyncio.timeout(100):
        for _ in range(ATTEMPTS):
            key = run("keys", "create", "--name", "passing", dsn=dsn).stdout.strip()
            for session in (one, other):
                async with session.post(HEARTBEAT, headers={"X-API-Key": key}) as response:
                    assert response.status == 204
            cut = await db.fetch(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE application_name = 'activity-api' AND datname = current_database()"
            )
            assert len(cut) >= 2
            await db.execute("UPDATE api_keys SET revoked_at = now() WHERE name = 'passing'")
            if await refused_after((one, other), key) < PROMISED_S:
                return
    pytest.fail(f"not once in {ATTEMPTS} times")


async def test_only_hashes_are_looked_up(service, monkeypatch):
    """Neither the cache nor the database ever gets to see a key, be it right or wrong."""
    seen: list[object] = []
    get, fetch = CachedLookup.get, Database.fetch

    async def noting_get(self, key):
        seen.append(key)
        return await get(self, key)

    async def noting_fetch(self, statement, *arguments, **options):
        seen.extend(arguments)
        return await fetch(self, statement, *arguments, **options)

    monkeypatch.setattr(CachedLookup, "get", noting_get)
    monkeypatch.setattr(Database, "fetch", noting_fetch)
    wrong = service.key[:-1] + ("A" if service.key[-1] != "A" else "B")
    for key, status in ((service.key, 200), (wrong, 401)):
        response = await service.call("GET", "/api/v1/devices?group_id=family", key=key)
        assert response.status == status
        assert hash_key(key) in seen
    assert {len(one) for one in seen if isinstance(one, bytes)} == {32}
    assert service.key not in str(seen)
    assert wrong not in str(seen)


class Touchy(str):
    """A key that can be hashed as a whole, and in no other way compared or taken apart."""

    __slots__ = ()

    def _refuse(self, *_args: object) -> bool:
        raise AssertionError("the text of a key was compared")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = _refuse
    __getitem__ = __iter__ = startswith = endswith = find = index = _refuse
    __hash__ = None


async def test_the_text_of_a_key_is_never_compared(service):
    """So the time of a 401 response does not show how much of a wrong key is right."""
    hashed = hashlib.sha256(service.key.encode()).digest()
    assert hash_key(Touchy(service.key)) == quick_hash(Touchy(service.key)) == hashed

    async def principal(key: str) -> Principal:
        headers = SimpleNamespace(getall=lambda _name, _default: (Touchy(key),))
        return await service.access.principal(SimpleNamespace(headers=headers))

    assert (await principal(service.key)).key_id == 1
    for wrong in (service.key[:-1] + "_", "ak_" + "A" * 43, "ak_"):
        with pytest.raises(ApiError, match="Unauthorized"):
            await principal(wrong)


@pytest.mark.parametrize(
    "key",
    [
        *("ak_", "ak_" + "A" * 42, "ak_" + "A" * 44, "AK_" + "A" * 43, "ak_" + "é" * 43),
        *("ak_" + "A" * 42 + "\n", "ak_" + "A" * 43 + "\n", " ak_" + "A" * 43, "x" * 100_000),
    ],
)
def test_a_value_without_the_shape_of_a_key_is_not_hashed(key):
    """It is denied before it is hashed; the check reads only its length and that it is ASCII."""
    assert hash_key(key) is None
    assert (quick_hash(key) is None) == (len(key) != 46 or not key.isascii())


def test_a_key_for_each_device_is_made_at_once(dsn):
    """A thousand keys in one command, as CSV or JSON, each of them valid and listed."""
    made = run(
        *("keys", "create", "--count", "1000", "--name-prefix", "van-", "--group", "vans"), dsn=dsn
    )
    assert made.returncode == 0, made.stderr
    header, *rows = csv.reader(made.stdout.splitlines())
    assert header == ["name", "key"]
    assert [name for name, _ in rows] == [f"van-{number}" for number in range(1, 1001)]
    assert len({key for _, key in rows}) == 1000
    more = run(
        *("keys", "create", "--count", "2", "--name-prefix", "bus ", "--format", "json"), dsn=dsn
    )
    assert [one["name"] for one in json.loads(more.stdout)] == ["bus 1", "bus 2"]
    listed = json.loads(run("keys", "list", "--json", dsn=dsn).stdout)
    assert {key["prefix"]: key["name"] for key in listed if key["group_id"] == "vans"} == {
        key[:10]: name for name, key in rows
    }
    revoked = run("keys", "revoke", "van-7", dsn=dsn)
    assert revoked.returncode == 0, revoked.stderr


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ((), "--name is needed"),
        (("--count", "2"), "--name-prefix"),
        (("--count", "2", "--name", "x"), "--name-prefix"),
        (("--name", "x", "--name-prefix", "y"), "--name is needed"),
        (("--count", "2", "--name-prefix", "x" * 100), "--name-prefix"),
    ],
)
def test_options_of_keys_that_do_not_go_together_are_named(dsn, options, part):
    """Nothing is made."""
    done = run("keys", "create", *options, dsn=dsn)
    assert done.returncode == 2
    assert part in done.stderr
    assert json.loads(run("keys", "list", "--json", dsn=dsn).stdout) == []
