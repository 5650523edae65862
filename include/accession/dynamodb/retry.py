"""One request to DynamoDB: send prepared bytes, repeat until DynamoDB accepts or refuses, return the parsed answer.

botocore's own serialiser and parser cost more than the rest of a request, so bytes go through a transport that
takes credentials, endpoint and proxies from a boto3 client. The client itself is not changed.

Retries are made here, not in botocore, because only here can a throttle lower the rate that all writers share.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import orjson
from botocore.exceptions import BotoCoreError, ClientError

from accession.aws import REQUEST_TIMEOUT_SECONDS
from accession.dynamodb.answers import (
    ConditionFailedError,
    ExpiredError,
    LostAnswerError,
    PassingError,
    ThrottledError,
    explain_answer,
    explain_sent,
    explain_unsent,
    name_request,
)
from accession.dynamodb.backoff import RETRY_SECONDS, Backoff
from accession.dynamodb.connection import Answer
from accession.dynamodb.crew import find_call
from accession.dynamodb.transport import Transport
from accession.errors import TransientError

RENEWALS = 2  # forced refreshes of the credentials in one call, before it is given up


class Sender:
    """Send requests through the transport that `open_transport` opens for the first one.

    `region` is named in errors. `clock` (seconds, monotonic), `sleep` and `jitter` (0 to 1) drive the retries.
    """

    def __init__(
        self,
        open_transport: Callable[[], Awaitable[Transport]],
        region: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._open_transport, self._region = open_transport, region
        self._clock, self._sleep, self._jitter = clock, sleep, jitter
        self._transport: Transport | None = None
        self._opening = asyncio.Lock()

    async def send(
        self,
        operation: str,
        table: str,
        body: bytes,
        *,
        pace: Callable[[], Awaitable[None]] | None = None,
        fence: Callable[[], Awaitable[None]] | None = None,
        throttled: Callable[[ThrottledError], None] = lambda _: None,
        decode: Callable[[bytes], dict[str, Any]] = orjson.loads,
        patience: float = RETRY_SECONDS,
        is_write: bool = False,
        repeats: bool = True,
    ) -> dict[str, Any]:
        """Send `body` until DynamoDB answers, and return its answer, parsed by `decode` (orjson or msgspec) alone.

        Before each attempt `pace` waits for its turn. `fence` is awaited last, with connection and credentials ready:
        the bytes are written in the same step of the loop in which it returns. `throttled` is called after each attempt
        that was throttled. Errors of these three end the call. A write to which DynamoDB answered nothing may still be
        on its way, so nothing follows it before it must have ended. Without `repeats`, raises LostAnswerError as soon
        as the request may have been applied and its answer is lost. Raises ConditionFailedError, TargetError,
        AccessError and PermanentError at once, TransientError after `patience` seconds of failures.
        """
        request = name_request(operation, table)
        backoff, repeated, renewals = self.backoff(patience), False, 0
        while True:
            if pace is not None:
                await pace()
            try:
                return await self._send_once(operation, table, body, fence, decode)
            except ConditionFailedError:
                raise ConditionFailedError(repeated) from None
            except ThrottledError as error:
                throttled(error)
                reason = str(error)
            except ExpiredError as error:
                renewals += 1
                if renewals > RENEWALS or not await self._renew_credentials(request):
                    raise error.refusal from None
                reason = str(error)
            except PassingError as error:
                repeated, reason = repeated or error.may_be_applied, str(error)
                if is_write and not error.has_ended:
                    await self._sleep(REQUEST_TIMEOUT_SECONDS)
                if error.may_be_applied and not repeats:
                    raise LostAnswerError(reason) from error
            if not await backoff.wait():
                raise TransientError(
                    f"Request {request} failed for {backoff.seconds:.0f} s ({reason}). Try again when DynamoDB answers."
                )

    def backoff(self, patience: float = RETRY_SECONDS) -> Backoff:
        """Return waits for a call that tries again and again, from now on."""
        return Backoff(patience, self._clock, self._sleep, self._jitter)

    def close(self) -> None:
        """Drop all connections."""
        if self._transport is not None:
            self._transport.close()

    async def _send_once(
        self,
        operation: str,
        table: str,
        body: bytes,
        fence: Callable[[], Awaitable[None]] | None,
        decode: Callable[[bytes], dict[str, Any]],
    ) -> dict[str, Any]:
        try:
            answer = await self._exchange(operation, table, body, fence)
        except BotoCoreError as error:
            raise explain_sent(error, name_request(operation, table)) from error
        if not answer.is_whole:
            raise PassingError("damaged answer", may_be_applied=True)
        if answer.status != 200:
            raise explain_answer(answer, operation, table, self._region)
        try:
            return decode(answer.body)
        except (orjson.JSONDecodeError, msgspec.DecodeError) as error:
            raise PassingError("unreadable answer", may_be_applied=True) from error

    async def _exchange(
        self, operation: str, table: str, body: bytes, fence: Callable[[], Awaitable[None]] | None
    ) -> Answer:
        call = find_call()
        while True:
            try:
                transport = self._transport or await self._open()
                connection = await transport.lease()
            except (BotoCoreError, ClientError) as error:
                raise explain_unsent(error, name_request(operation, table)) from error
            try:
                if fence is not None:
                    await fence()
                # Nothing is awaited from here to the write, so that the fence's answer is as young as it was.
                if transport.is_ready(connection):
                    answer = transport.post(connection, operation, body)
                    call.is_sent = True
                    return await answer
            finally:
                call.is_sent = False
                transport.release(connection)

    async def _open(self) -> Transport:
        async with self._opening:
            self._transport = self._transport or await self._open_transport()
        return self._transport

    async def _renew_credentials(self, request: str) -> bool:
        assert self._transport is not None
        try:
            return await self._transport.renew_credentials()
        except (BotoCoreError, ClientError) as error:
            explained = explain_unsent(error, request)
            if isinstance(explained, PassingError):
                return True  # the refresh itself may pass: the next attempt tries it again
            raise explained from error
