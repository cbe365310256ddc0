"""A worker asks all other workers for touches that are not in the table yet."""

import tempfile
from types import SimpleNamespace

from api.workers import siblings as module
from api.workers.answers import SiblingAnswers
from api.workers.channel import Channel, no_answer
from api.workers.run_dir import serve_channels
from api.workers.siblings import WorkerSiblings


def answering(seconds):
    """Answer as a worker in which touches of these devices are pending."""
    view = SimpleNamespace(latest=lambda ids: [seconds.get(one, 0) for one in ids])
    return SiblingAnswers(SimpleNamespace(pending=lambda: view), {})


async def test_a_listing_has_the_latest_pending_touch_of_all_siblings(monkeypatch):
    """Siblings that are gone get no request."""
    monkeypatch.setattr(module, "DEADLINE_S", 30)
    siblings = WorkerSiblings(Channel(no_answer))
    with tempfile.TemporaryDirectory() as folder:
        first, second = f"{folder}/1.sock", f"{folder}/2.sock"
        servers = [
            await serve_channels(first, lambda: Channel(answering({"a": 5, "b": 6}))),
            await serve_channels(second, lambda: Channel(answering({"a": 7, "b": 4, "c": 1}))),
        ]

        async def latest():
            views = await siblings.views()
            found = await views.latest(["a", "b", "c", "d"])
            assert views.missing == []
            return found

        await siblings.update({first: 1, second: 2}, {})
        assert await latest() == {"a": 7, "b": 6, "c": 1}
        await siblings.update({first: 1}, {})
        assert await latest() == {"a": 5, "b": 6}
        await siblings.update({}, {})
        assert await siblings.views() is None
        for server in servers:
            server.close()
