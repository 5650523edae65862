"""One request to DynamoDB: prepared bytes out, the answer's bytes in, retried until it is a yes or a no.

botocore's own serialiser and parser cost more than all the rest of a request, so bytes go through a transport that
takes credentials, endpoint and proxies from a boto3 client. The same client behaves as ever for everybody else.

Retries are done here, not in botocore, since only here can a throttle lower the rate that all writers share.
"""

import asyncio
import random
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import orjson
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ConnectionError,
    HTTPClientError,
    NoRegionError,
)

from accession.aws import CONNECT_SECONDS, CREDENTIALS_CODES, DENIED_CODES, NO_CREDENTIALS, READ_SECONDS
from accession.dynamodb.connection import Answer
from accession.dynamodb.crew import find_call
from accession.dynamodb.transport import Transport
from accession.errors import AccessError, AccessionError, PermanentError, TargetError, TransientError

RETRY_SECONDS = 300.0  # how long a request is repeated without any progress before it is given up
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.05, 2.0

# Which errors to retry: DynamoDB Developer Guide, Programming.Errors
_THROTTLES = {"ProvisionedThroughputExceededException", "ThrottlingException", "Throttling", "RequestLimitExceeded"}
_PASSING = {
    "InternalServerError", "InternalFailure", "ServiceUnavailable", "ItemCollectionSizeLimitExceededException",
    "TransactionInProgressException", "TransactionConflictException", "ReplicatedWriteConflictException",
    "RequestTimeout", "RequestTimeoutException",
}  # fmt: skip


def client_config() -> Config:
    """Return what a DynamoDB client is made with.

    One attempt per call, since this module retries, and `standard` mode would otherwise cut DynamoDB's ten attempts to
    a few and hide throttles from the rate. Time limits that bound a request. No client-side validation, since staging
    has checked every item. A short user agent of our own.
    """
    return Config(
        retries={"mode": "standard", "total_max_attempts": 1},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        parameter_validation=False,
        tcp_keepalive=True,
        user_agent="Accession",
    )


class ConditionFailedError(Exception):
    """The condition of a write does not hold.

    `repeated`: an earlier attempt of the same call may have been applied, so that its own effect can be the reason.
    """

    def __init__(self, repeated: bool) -> None:
        super().__init__("the condition does not hold")
        self.repeated = repeated


class ThrottledError(Exception):
    """The table refused for now; `reasons` as DynamoDB gave them, e.g. TableWriteKeyRangeThroughputExceeded."""

    def __init__(self, reasons: set[str]) -> None:
        super().__init__(", ".join(sorted(reasons)) or "throttled")
        self.reasons = reasons

    @property
    def hot_keys_only(self) -> bool:
        """One key range is hot: its items wait, and the others go on as fast as before."""
        return bool(self.reasons) and all(reason.endswith("KeyRangeThroughputExceeded") for reason in self.reasons)


class _PassingError(Exception):
    """A failure that may pass; whether the request was applied is not known."""


class Sender:
    """Sends requests through the transport that `open_transport` opens at the first one.

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
    ) -> dict[str, Any]:
        """Send `body` until DynamoDB answers, and return its answer, parsed by `decode` (orjson or msgspec) alone.

        Before each attempt `pace` waits for its turn. `fence` is awaited last, with connection and credentials ready:
        the bytes are written in the same step of the loop in which it returns. `throttled` is called after each attempt
        that was throttled. What these raise ends the call. Raises ConditionFailedError, TargetError, AccessError,
        PermanentError at once; TransientError after `patience` seconds of failures.
        """
        backoff: Backoff | None = None
        repeated, begun = False, self._clock()
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
            except _PassingError as error:
                repeated, reason = True, str(error)
            backoff = backoff or Backoff(patience, self._clock, self._sleep, self._jitter, begun)
            if not await backoff.wait():
                raise TransientError(
                    f"dynamodb:{operation} on table {table} failed for {backoff.seconds:.0f} s ({reason}): "
                    "try again when DynamoDB answers"
                )

    def backoff(self) -> "Backoff":
        """Return waits for a call that tries again and again, from now on."""
        return Backoff(RETRY_SECONDS, self._clock, self._sleep, self._jitter, self._clock())

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
            answer = await self._exchange(operation, body, fence)
        except NO_CREDENTIALS as error:
            raise AccessError(
                f"dynamodb:{operation} on table {table} needs AWS credentials and found none that work "
                f"({type(error).__name__}): set them in the environment or in the Airflow connection"
            ) from error
        except NoRegionError as error:
            raise AccessError("there is no AWS region: set AWS_DEFAULT_REGION, or it in the connection") from error
        except (ConnectionError, HTTPClientError) as error:
            raise _PassingError(type(error).__name__) from error
        except BotoCoreError as error:
            raise PermanentError(f"dynamodb:{operation} on table {table} failed: {type(error).__name__}") from error
        if not answer.is_whole:
            raise _PassingError("damaged answer")
        if answer.status != 200:
            raise _translate(answer, operation, table, self._region)
        try:
            return decode(answer.body)
        except (orjson.JSONDecodeError, msgspec.DecodeError) as error:
            raise _PassingError("unreadable answer") from error

    async def _exchange(self, operation: str, body: bytes, fence: Callable[[], Awaitable[None]] | None) -> Answer:
        transport, call = self._transport or await self._open(), find_call()
        while True:
            connection = await transport.lease()
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


class Backoff:
    """Waits with full jitter, doubling, until `patience` seconds have passed without progress."""

    def __init__(
        self,
        patience: float,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
        jitter: Callable[[], float],
        begun: float,
    ) -> None:
        self._patience, self._clock, self._sleep, self._jitter = patience, clock, sleep, jitter
        self._start, self._attempt = begun, 0

    def progress(self) -> None:
        """Start again: something went through."""
        self._start, self._attempt = self._clock(), 0

    @property
    def seconds(self) -> float:
        """Since the start or the last progress."""
        return self._clock() - self._start

    async def wait(self) -> bool:
        """Wait a little longer than before. Return False at once if patience has run out, or the call is to end."""
        if find_call().is_over or self.seconds >= self._patience:
            return False
        longest = min(LONGEST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**self._attempt)
        self._attempt += 1
        await self._sleep(self._jitter() * longest)
        return True


def _translate(answer: Answer, operation: str, table: str, region: str) -> Exception:
    """What an error means. `__type` ends with the code (AWS JSON protocol); a proxy may answer no JSON at all."""
    try:
        response = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        response = None
    if not isinstance(response, dict):
        response = {}
    code = str(response.get("__type", "")).rpartition("#")[2]
    message = str(response.get("message") or response.get("Message") or "")
    if code == "ConditionalCheckFailedException":
        return ConditionFailedError(False)
    if code in _THROTTLES or answer.status == 429:
        listed = response.get("ThrottlingReasons") or response.get("throttlingReasons") or []
        return ThrottledError({str(entry["reason"]) for entry in listed if entry.get("reason")})
    if code in _PASSING or answer.status >= 500:
        return _PassingError(code or f"HTTP {answer.status}")
    return _permanent(code or f"HTTP {answer.status}", message, operation, table, region)


def _permanent(code: str, message: str, operation: str, table: str, region: str) -> AccessionError:
    if code in {"ResourceNotFoundException", "TableNotFoundException"}:
        return TargetError(
            f"table {table} does not exist in {region}: run make deploy ENVIRONMENT=<environment> first, "
            "or point AWS_DEFAULT_REGION and AWS_ENDPOINT_URL at where it is"
        )
    if code in DENIED_CODES | CREDENTIALS_CODES:
        return AccessError(
            f"AWS refused dynamodb:{operation} on table {table} ({code}): allow that action for the credentials in "
            "use, or use others"
        )
    return PermanentError(f"DynamoDB refused dynamodb:{operation} on table {table}: {code}: {_without_values(message)}")


def _without_values(message: str) -> str:
    """The service's message less what it quotes: values may be personal."""
    message = re.sub(r"'.*'|\".*\"|\{.*\}|\[.*\]|<.*>", "…", message, flags=re.DOTALL)
    return re.sub(r"(numeric value|number):? .*", r"\1 …", message)
