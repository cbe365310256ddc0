"""Answers the requests of a connection one after the other, in one task.

aiohttp starts a task for each request. The requests of a connection are answered in order in any
case, so a task for each brings nothing, and takes a sixth of the time of a heartbeat. Here the task
of the connection answers all of them.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

from aiohttp import web
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import ERROR

from api.http.sending import as_bytes

_Handler: TypeAlias = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class RequestLoop(web.RequestHandler):
    """A connection whose requests are answered in one task.

    It does what `RequestHandler.start` of aiohttp does, but for the task and the access log. What a
    request leaves in a context variable is there for the next request of its connection.
    """

    __slots__ = ("_served_by",)

    async def start(self) -> None:
        """Answer requests until the connection ends."""
        # A request that has come is answered although its client has left since.
        self._served_by = cast(
            "tuple[web.Server, Any, _Handler]",
            (self._manager, self._request_factory, self._request_handler),
        )
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
        # Clients that send requests ahead do not hold up the others.
        await (asyncio.sleep(0) if self._messages else self._message_comes())
        self._waiter, is_lost = None, True
        message, body = self._messages.popleft()
        try:
            request, handler = self._begin(message, body)
            try:
                response = await handler(request)
            except Exception as error:  # noqa: BLE001 - each gets its response
                response = self._response_to(error, request)
            self._current_request = None
            response = self.about_to_send(request, response)
            data = None if self._upgraded else as_bytes(request, response)
            if data is None:
                response, is_lost = await self.finish_response(request, response, None)
            else:
                is_lost = not self.send_whole(data)
            self._keepalive = not is_lost and bool(response.keep_alive)
        except ConnectionError:
            self._keepalive = False
        except Exception as error:  # noqa: BLE001 - it ends this connection, whatever it is
            self.log_exception("Unhandled exception", exc_info=error)
            self.force_close()
        finally:
            self._end()
        if not is_lost and not body.is_eof():
            await self._discard(body)
        return self._keepalive and not self._close and self._await_keepalive()

    def _message_comes(self) -> "asyncio.Future[None]":
        """Return a future that has a result when there is a request."""
        self._waiter = self._loop.create_future()
        return self._waiter

    def _begin(self, message: object, body: StreamReader) -> tuple[web.BaseRequest, _Handler]:
        """Return a request with what answers it; the parser's errors are in the queue, too."""
        manager, factory, handler = self._served_by
        if self._parser is not None:
            self._parser.message_consumed()
        if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
            self._resume_reading_if_drained()
        manager.requests_count += 1
        if not isinstance(message, RawRequestMessage):
            handler, message = self._make_error_handler(cast("Any", message)), ERROR
        task = self._task_handler or asyncio.current_task()
        request = factory(message, body, self, StreamWriter(self, self._loop), task)
        self._request_in_progress, self._current_request = True, request
        return request, handler

    def _response_to(self, error: Exception, request: web.BaseRequest) -> web.StreamResponse:
        """Return the response to a request that was answered with an exception."""
        if isinstance(error, web.HTTPException):
            return error
        return self.handle_error(request, 504 if isinstance(error, TimeoutError) else 500, error)

    def about_to_send(
        self, request: web.BaseRequest, response: web.StreamResponse
    ) -> web.StreamResponse:
        """Return what is sent for a response; for connections that have something to add."""
        del request
        return response

    def send_whole(self, data: bytes) -> bool:
        """Send all of a response, and return whether the client is still there."""
        if self.transport is None or self.transport.is_closing():
            return False
        self.transport.write(data)
        return True

    def _end(self) -> None:
        """Note that no request is being answered; a shutdown may wait for that."""
        self._request_in_progress, self._current_request = False, None
        if self._handler_waiter is not None and not self._handler_waiter.done():
            self._handler_waiter.set_result(None)

    def _await_keepalive(self) -> bool:
        """Limit the wait for the next request, and return whether there is to be one."""
        if self._force_close:
            return False
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None:
            self._keepalive_handle = self._loop.call_at(
                self._next_keepalive_close_time, self._process_keepalive
            )
        return True

    async def _discard(self, body: StreamReader) -> None:
        """Read the rest of a body that its handler left unread, for a while."""
        ends_at = self._loop.time() + self._lingering_time
        try:
            async with asyncio.timeout_at(ends_at):
                while not body.is_eof():
                    await body.readany()
        except TimeoutError:
            pass
        except Exception as error:  # noqa: BLE001 - it ends this connection, whatever it is
            self.log_exception("Unhandled exception", exc_info=error)
            self.force_close()
        if not body.is_eof() and not self._force_close:
            self.close()
