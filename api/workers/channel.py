"""Questions and answers between two processes of a service, over a stream of messages.

Each message is MessagePack, after its length in four bytes. Both sides may ask at any time, and
answers come in any order.
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from itertools import count
from typing import Any, Final, TypeAlias, cast

import msgspec
import structlog

Answer: TypeAlias = Callable[[str, Any], Any | Awaitable[Any]]
"""Answers a question: gets its name and its body, returns the body of the answer, or awaits it."""

_LENGTH_BYTES: Final = 4
_ASK, _ANSWER, _ERROR = range(3)

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class ChannelError(Exception):
    """A question was not answered: too late, closed, or the other side failed."""


def no_answer(what: str, _body: object) -> None:
    """Answer no question: for the side that only asks.

    Raises:
        ChannelError: always.
    """
    raise ChannelError(f"{what!r} is not asked in this direction")


class Channel(asyncio.Protocol):
    """One end of a stream between two processes.

    Args:
        answer: answers the other side's questions.
        on_lost: called once when the stream has ended.
    """

    def __init__(self, answer: Answer, on_lost: Callable[[], None] = lambda: None) -> None:
        self._answer = answer
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note that the stream is open."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is no subclass of it
        self.is_open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail all open questions."""
        del exc
        self.is_open = False
        for future in self._asked.values():
            if not future.done():
                future.set_exception(ChannelError("the other process has closed the stream"))
        self._asked.clear()
        self._on_lost()

    def close(self) -> None:
        """Close the stream."""
        if self._transport is not None:
            self._transport.close()

    async def ask(self, what: str, body: object = None, *, deadline_s: float) -> Any:
        """Ask the other side, and return its answer.

        Args:
            what: the name of the question.
            body: what `msgspec` can encode.
            deadline_s: how long to wait, in seconds.

        Raises:
            ChannelError: there was no answer.
        """
        if not self.is_open:
            raise ChannelError("the stream to the other process is closed")
        number = next(self._numbers)
        future = self._asked[number] = asyncio.get_running_loop().create_future()
        try:
            self._send((number, _ASK, what, body))
            async with asyncio.timeout(deadline_s):
                return await future
        except TimeoutError:
            if not future.cancelled():  # it came in the turn of the event loop that was too late
                answer: Any = future.result()
                return answer
            raise ChannelError(f"no answer to {what!r} within {deadline_s:g} s") from None
        finally:
            self._asked.pop(number, None)

    def _send(self, message: object) -> None:
        if self.is_open and self._transport is not None:
            encoded = msgspec.msgpack.encode(message)
            self._transport.write(len(encoded).to_bytes(_LENGTH_BYTES, "big") + encoded)

    def data_received(self, data: bytes) -> None:
        """Process all messages that are complete."""
        self._received += data
        start = 0
        while len(self._received) >= start + _LENGTH_BYTES:
            begin = start + _LENGTH_BYTES
            end = begin + int.from_bytes(self._received[start:begin], "big")
            if len(self._received) < end:
                break
            self._process(msgspec.msgpack.decode(self._received[begin:end]))
            start = end
        del self._received[:start]

    def _process(self, message: tuple[int, int, Any, Any]) -> None:
        number, kind, what, body = message
        if kind == _ASK:
            self._process_question(number, what, body)
            return
        future = self._asked.get(number)  # None if its deadline has passed
        if future is not None and not future.done():
            if kind == _ERROR:
                future.set_exception(ChannelError(str(body)))
            else:
                future.set_result(body)

    def _process_question(self, number: int, what: str, body: object) -> None:
        try:
            answer = self._answer(what, body)
        except Exception as error:
            log.exception("worker.question_failed", question=what)
            self._send((number, _ERROR, None, f"{type(error).__name__}: {error}"))
            return
        if not inspect.isawaitable(answer):
            self._send((number, _ANSWER, None, answer))
            return
        task = asyncio.ensure_future(self._answer_later(number, what, answer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer_later(self, number: int, what: str, answer: Awaitable[Any]) -> None:
        try:
            self._send((number, _ANSWER, None, await answer))
        except Exception as error:
            log.exception("worker.question_failed", question=what)
            self._send((number, _ERROR, None, f"{type(error).__name__}: {error}"))
