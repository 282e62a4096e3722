"""One GET request to the API: paced, tried again, bounded in time and size.

Whatever goes wrong ends as one `ApiError` with a reason of the contract. Retrying and waiting live
together here, because `Retry-After` touches both.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import KW_ONLY, dataclass
from http import HTTPStatus
from random import SystemRandom

import httpx

from invent_exporter.api.bodies import CHUNK_BYTES, decoded, one_line, read_error_text
from invent_exporter.api.client import make_client
from invent_exporter.api.ratelimit import (
    MAX_WAIT_SECONDS,
    Clock,
    Heartbeat,
    RateLimiter,
    Sleep,
    parse_retry_after,
)
from invent_exporter.errors import ApiError, BadAnswerError, BadBodyError, TooLargeError
from invent_exporter.telemetry import Telemetry

TRIES = 4
FIRST_BACKOFF_SECONDS = 1.0
_REASONS: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with status 200, its body decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray


@dataclass(eq=False)
class Transport:
    """GET requests to one API, over connections that are kept; see `make_client` for errors."""

    base_url: str
    timeout_seconds: float
    max_response_bytes: int
    limiter: RateLimiter
    telemetry: Telemetry
    _: KW_ONLY
    version: str = "dev"
    clock: Clock = time.monotonic
    wall_clock: Clock = time.time
    sleep: Sleep = asyncio.sleep
    random: Callable[[], float] = SystemRandom().random

    def __post_init__(self) -> None:
        self._client = make_client(
            self.base_url, version=self.version, timeout_seconds=self.timeout_seconds
        )

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def get(
        self,
        path: str,
        params: Mapping[str, str],
        key: Callable[[], str],
        org_id: str,
        heartbeat: Heartbeat = lambda _seconds: None,
    ) -> Answer:
        """Ask until an answer with status 200 is complete, or there is no use in asking again.

        5xx, 429 and network errors are tried up to four times; a timeout is the caller's, who may
        ask for less. `org_id` is a label of the request's metrics.

        Raises:
            ApiError: whatever went wrong.

        """
        waited_seconds = 0.0
        for attempt in range(1, TRIES + 1):
            await self._wait_for_turn(heartbeat)
            try:
                return await self._try(path, params, key, org_id, heartbeat)
            except ApiError as error:
                wait_seconds = self._wait_after(error, attempt)
                if wait_seconds is None:
                    raise
                if error.reason == "rate_limited":
                    self.limiter.pause(wait_seconds)
                waited_seconds += wait_seconds
                if attempt == TRIES or waited_seconds > MAX_WAIT_SECONDS:
                    raise
                if error.reason != "rate_limited":  # the limiter does that wait, for every org
                    heartbeat(wait_seconds)
                    await self.sleep(wait_seconds)
                    if error.retry_after_seconds is not None:
                        self.telemetry.throttled(wait_seconds)
        raise AssertionError("the last try returns or raises")

    def _wait_after(self, error: ApiError, attempt: int) -> float | None:
        """Tell how long to wait before the next try; None when there is no use in one."""
        if error.reason not in ("rate_limited", "server_error", "network"):
            return None
        if error.retry_after_seconds is not None:
            return error.retry_after_seconds
        return self.random() * FIRST_BACKOFF_SECONDS * (1 << attempt - 1)

    async def _wait_for_turn(self, heartbeat: Heartbeat) -> None:
        started = self.clock()
        try:
            await self.limiter.acquire(heartbeat)
        finally:
            self.telemetry.throttled(self.clock() - started)

    async def _try(
        self,
        path: str,
        params: Mapping[str, str],
        key: Callable[[], str],
        org_id: str,
        heartbeat: Heartbeat,
    ) -> Answer:
        secret = _read_key(key)
        url, headers = self.base_url.rstrip("/") + path, {"Authorization": f"Bearer {secret}"}
        request = self._client.build_request("GET", url, params=params, headers=headers)
        heartbeat(self.timeout_seconds)
        status: int | None = None  # what is known of the try, whatever breaks it off
        started = self.clock()
        try:
            async with asyncio.timeout(self.timeout_seconds):
                response = await self._client.send(request, stream=True)
                async with aclosing(response):
                    status = response.status_code
                    return await self._read(response, secret)
        except ApiError:
            raise
        except BadBodyError as error:
            raise BadAnswerError(one_line(str(error), secret)) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            message = f"no complete answer within {self.timeout_seconds:g} s"
            raise ApiError("timeout", message) from error
        except Exception as error:
            # httpx, its backends and ssl let exceptions out that share no base class; what they
            # say of the network is one reason, and a poll must outlive all of them.
            what = one_line(str(error), secret) or "no further words"
            message = f"{type(error).__name__}: {what}"
            raise ApiError("network", message, status=status) from error
        finally:
            code = "error" if status is None else str(status)
            self.telemetry.request_done(org_id, code, self.clock() - started)

    async def _read(self, response: httpx.Response, secret: str) -> Answer:
        status, body = response.status_code, bytearray()
        if status != HTTPStatus.OK:
            raise self._error_of(response, await read_error_text(response, secret), secret)
        async for piece in decoded(response):
            body += piece
            if len(body) > self.max_response_bytes:
                raise TooLargeError(self.max_response_bytes, bytes(body[:CHUNK_BYTES]), status)
        return Answer(status, response.headers, body)

    def _error_of(self, response: httpx.Response, text: str, secret: str) -> ApiError:
        status, headers = response.status_code, response.headers
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            target = one_line(headers.get("location", "").split("?")[0], secret) or "nowhere"
            message = f"HTTP {status}: redirect to {target} not followed"
            return ApiError("invalid_response", message, status=status)
        return ApiError(
            _reason_of(status),
            f"HTTP {status}: {text}" if text else f"HTTP {status}",
            retry_after_seconds=parse_retry_after(
                headers.get("retry-after"), headers.get("date"), self.wall_clock()
            ),
            status=status,
        )


def _reason_of(status: int) -> str:
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    is_refusal = status >= HTTPStatus.BAD_REQUEST
    return _REASONS.get(status, "bad_request" if is_refusal else "invalid_response")


def _read_key(key: Callable[[], str]) -> str:
    try:
        secret = key()
    except Exception as error:
        # However a key is kept, a key that can't be read is this org's failure and no other's.
        raise ApiError("unauthorized", f"the key can't be read: {error}") from error
    if not secret or not secret.isascii() or not secret.isprintable() or secret.strip() != secret:
        # h11 would refuse it as well, and show it in the error.
        raise ApiError("unauthorized", "the key is empty or has characters that no header carries")
    return secret
