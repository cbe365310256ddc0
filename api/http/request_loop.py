"""Answers the requests of a connection one after the other, in one task.

aiohttp starts a task for each request. The requests of a connection are answered in order in any
case, so a task for each brings nothing, and takes a sixth of the time of a heartbeat. Here the task
of the connection answers all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import ERROR


class RequestLoop(web.RequestHandler):
    """A connection whose requests are answered in one task.

    It does what `RequestHandler.start` of aiohttp does, but for the task and the access log. What a
    request leaves in a context variable is there for the next request of its connection.
    """

    __slots__ = ()

    async def start(self) -> None:
        """Answer requests until the connection ends."""
        try:
            while not self._force_close and await self._answer_next():
                pass
        except asyncio.CancelledError:
            self.force_close()
            raise
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _answer_next(self) -> bool:
        """Answer the next request, and return whether there may be another one after it."""
        if self._messages:
            await asyncio.sleep(0)  # clients that send requests ahead do not hold up the others
        else:
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        message, body = self._messages.popleft()
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        try:
            request, handler = self._request_of(message, body)
            response, is_lost = await self._handle_request(request, None, handler)
            if is_lost:
                return False
            self._keepalive = bool(response.keep_alive)
            if not body.is_eof():
                await self._discard(body)
        except ConnectionError:
            return False
        except Exception as error:  # noqa: BLE001 - it ends this connection, whatever it is
            self.log_exception("Unhandled exception", exc_info=error)
            self.force_close()
        if not self._keepalive or self._close or self._force_close:
            return False
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        return True

    def _request_of(
        self, message: object, body: StreamReader
    ) -> tuple[web.BaseRequest, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]]:
        """Return a request with what answers it; the parser's errors are in the queue, too."""
        manager, factory, handler = self._manager, self._request_factory, self._request_handler
        if manager is None or factory is None or handler is None:
            raise ConnectionResetError("the connection is lost")
        manager.requests_count += 1
        if not isinstance(message, RawRequestMessage):
            handler, message = self._make_error_handler(cast("Any", message)), ERROR
        writer = StreamWriter(self, self._loop)
        task = cast("asyncio.Task[None]", self._task_handler or asyncio.current_task())
        return factory(message, body, self, writer, task), handler

    async def _discard(self, body: StreamReader) -> None:
        """Read the rest of a body that its handler left unread, for a while."""
        ends_at = self._loop.time() + self._lingering_time
        with suppress(TimeoutError):
            async with asyncio.timeout_at(ends_at):
                while not body.is_eof():
                    await body.readany()
        if not body.is_eof() and not self._force_close:
            self.close()
