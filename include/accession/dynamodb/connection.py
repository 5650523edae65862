"""One HTTP/1.1 connection: prepared bytes out, one answer at a time back. llhttp (httptools) reads the answers."""

import asyncio
import zlib
from typing import NamedTuple, cast

from botocore.exceptions import ConnectionClosedError, ReadTimeoutError
from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser


class Answer(NamedTuple):
    """An HTTP answer. `is_whole`: it matches the checksum that DynamoDB sent with it, if there is one."""

    status: int
    body: bytes
    is_whole: bool


class Connection(asyncio.Protocol):
    """A connection to `url`, which is named in errors. Make one for each socket.

    Raises ReadTimeoutError and ConnectionClosedError of botocore.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, url: str) -> None:
        self._loop, self._url = loop, url
        self._parser = HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._body: list[bytes] = []
        self._checksum: bytes | None = None
        self._has_length = False  # of the body; else it ends with the connection
        self._has_head = self._ends_with_head = False
        self.transport: asyncio.Transport | None = None
        self.leased_at = self.released_at = 0.0  # for the pool

    @property
    def is_open(self) -> bool:
        """Tell whether a request can be sent: there is a connection, and no answer is awaited."""
        return self._answer is None and self.transport is not None and not self.transport.is_closing()

    def exchange(self, request: bytes, seconds: float, *, connect: bool = False) -> "asyncio.Future[Answer]":
        """Write a request at once, and return its answer as a future. `seconds` bound all of it, not each read.

        `connect`: the request is a CONNECT, so that a good answer has no body.
        """
        if not self.is_open:
            raise ConnectionClosedError(endpoint_url=self._url)
        assert self.transport is not None
        self._answer = answer = self._loop.create_future()
        self._timer = self._loop.call_later(seconds, self._time_out)
        self._has_head, self._ends_with_head = False, connect
        self.transport.write(request)
        return answer

    def abort(self, error: Exception | None = None) -> None:
        """Drop the connection and all bytes that are not sent yet. (Closing it would send them first.)"""
        if self.transport is not None:
            self.transport.abort()
        if self._answer is not None:
            self._end(error or ConnectionClosedError(endpoint_url=self._url))

    def _time_out(self) -> None:
        self.abort(ReadTimeoutError(endpoint_url=self._url, error="the answer took too long"))

    def _end(self, result: Answer | Exception) -> None:
        assert self._answer is not None and self._timer is not None
        answer, self._answer = self._answer, None
        self._timer.cancel()
        if answer.done():  # whoever waited was cancelled
            return
        if isinstance(result, Answer):
            answer.set_result(result)
        else:
            answer.set_exception(result)

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._answer is None:
            self.abort()
            return
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self.abort(ConnectionClosedError(endpoint_url=self._url, error=error))

    def eof_received(self) -> None:
        self.connection_lost(None)

    def connection_lost(self, error: Exception | None) -> None:
        if self._answer is not None and self._has_head and not self._has_length and error is None:
            self.on_message_complete()
        self.abort(ConnectionClosedError(endpoint_url=self._url, error=error))

    # What httptools calls

    def on_message_begin(self) -> None:
        self._body.clear()
        self._checksum, self._has_length = None, False

    def on_header(self, name: bytes, value: bytes) -> None:
        match name.lower():
            case b"x-amz-crc32":
                self._checksum = value
            case b"content-length" | b"transfer-encoding":
                self._has_length = True

    def on_headers_complete(self) -> None:
        self._has_head = True
        if self._ends_with_head and self._parser.get_status_code() == 200:
            self._end(Answer(200, b"", True))
            self._parser = HttpResponseParser(self)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._answer is None or status < 200:  # the good answer to a CONNECT, or 100 Continue
            return
        body = b"".join(self._body)
        self._body.clear()
        is_whole = self._checksum is None or self._checksum == b"%d" % zlib.crc32(body)
        if not self._parser.should_keep_alive() and self.transport is not None:
            self.transport.abort()
        self._end(Answer(status, body, is_whole))
