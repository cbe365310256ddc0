"""How requests wait for their share: API keys take turns, for a bounded time."""

import asyncio

from structlog.testing import capture_logs

from api.http import shares
from api.http.responses import ApiError
from api.http.shares import Shares
from tests.support.raw_client import PATIENCE_S


async def granted(tasks: list[asyncio.Task]) -> list[int]:
    """Return which of some tasks are done, after all that can run has run."""
    for _ in range(5):
        await asyncio.sleep(0)
    return [number for number, task in enumerate(tasks) if task.done()]


async def test_api_keys_take_turns():
    """What is given back goes to the keys in turns, however many requests of one of them wait."""
    one = Shares("x", capacity=1, per_key=1, amount=1, wait_s=PATIENCE_S)
    share = await one.take("a")
    waiting = [asyncio.create_task(one.take(key)) for key in "aaabbc"]
    assert await granted(waiting) == []
    assert (one.held, one.waiting) == (1, 6)
    order: list[int] = []
    while len(order) < len(waiting):
        share.give_back()
        (following,) = set(await granted(waiting)) - set(order)
        order.append(following)
        share = waiting[following].result()
    assert ["aaabbc"[number] for number in order] == ["a", "b", "c", "a", "b", "a"]
    share.give_back()
    assert (one.held, one.waiting, one.denied) == (0, 0, 0)


async def test_an_api_key_that_holds_its_part_waits_although_there_is_more():
    """Another one gets it at once, though it came later."""
    one = Shares("x", capacity=3, per_key=2, amount=1, wait_s=PATIENCE_S)
    held = [await one.take("a"), await one.take("a")]
    waiting = [asyncio.create_task(one.take("a"))]
    assert await granted(waiting) == []
    held.append(await one.take("b"))
    held[0].give_back()
    assert await granted(waiting) == [0]
    assert one.held == 3
    for share in (*held, waiting[0].result()):
        share.give_back()
    assert one.held == 0


async def test_a_request_waits_for_its_share_for_a_bounded_time(monkeypatch):
    """Then it gets 503, and so does one that finds too many waiting; nothing is left of either."""
    monkeypatch.setattr(shares, "_MAX_WAITING_PER_KEY", 2)
    one = Shares("reads", capacity=1, per_key=1, amount=1, wait_s=0.05)
    share = await one.take(7)
    with capture_logs() as logs:
        waiting = [asyncio.create_task(one.take(7)) for _ in range(5)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, ApiError) for result in results)
    assert {(result.status, result.code) for result in results} == {(503, "too_busy")}
    assert all(int(result.headers["Retry-After"]) > 0 for result in results)
    assert (one.denied, one.waiting, one.held) == (5, 0, 1)
    (entry,) = logs
    assert entry == {
        "event": "limits.denied",
        "log_level": "warning",
        "limit": "reads",
        "key_id": 7,
        "times": 1,
    }
    begun = asyncio.create_task(one.take(7, begun=True))
    abandoned = asyncio.create_task(one.take(7))
    await granted([begun])
    abandoned.cancel()
    await asyncio.wait([abandoned])
    share.give_back()
    (await begun).give_back()
    assert (one.denied, one.waiting, one.held) == (5, 0, 0)


async def test_a_share_that_is_too_large_for_its_limit_is_given_alone():
    """So that a limit that is set too low lets requests through one at a time."""
    one = Shares("x", capacity=10, per_key=5, amount=100, wait_s=PATIENCE_S)
    share = await one.take("a")
    waiting = [asyncio.create_task(one.take("b"))]
    assert await granted(waiting) == []
    share.resize(200)
    assert one.held == 200
    del share  # what is forgotten gives itself back
    assert await granted(waiting) == [0]
    waiting[0].result().give_back()
    assert one.held == 0
