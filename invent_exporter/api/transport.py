"""One GET request to the API: paced, tried again, bounded in time and size.

Whatever goes wrong ends as one `ApiError` with a reason of the contract. Retrying
and waiting live together here, because `Retry-After` touches both; the errors of a request stand
with it for the same reason, which makes this module longer than the others.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
from invent_exporter.errors import (
    ApiError,
    BadAnswerError,
    BadBodyError,
    PausedError,
    TooLargeError,
)
from invent_exporter.telemetry import Telemetry

TRIES = 4
FIRST_BACKOFF_SECONDS = 1.0
_RANDOM = SystemRandom()


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with status 200, its body decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray


class Transport:
    """GET requests to one API, over connections that are kept; see `make_client` for errors."""

    def __init__(
        self,
        base_url: str,
        timeout_seconds: float,
        max_response_bytes: int,
        limiter: RateLimiter,
        telemetry: Telemetry,
        *,
        version: str = "dev",
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        sleep: Sleep = asyncio.sleep,
        random: Callable[[], float] = _RANDOM.random,
    ) -> None:
        self._base_url = base_url.rstrip("/")
        self._timeout_seconds = timeout_seconds
        self._max_response_bytes = max_response_bytes
        self._limiter = limiter
        self._telemetry = telemetry
        self._clock = clock
        self._wall_clock = wall_clock
        self._sleep = sleep
        self._random = random
        self._client = make_client(base_url, version=version, timeout_seconds=timeout_seconds)

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
                    self._limiter.pause(wait_seconds)
                waited_seconds += wait_seconds
                if attempt == TRIES or waited_seconds > MAX_WAIT_SECONDS:
                    raise
                if error.reason != "rate_limited":  # the limiter does that wait, for every org
                    heartbeat(wait_seconds)
                    await self._sleep(wait_seconds)
                    if error.retry_after_seconds is not None:
                        self._telemetry.throttled(wait_seconds)
        raise AssertionError("the last try returns or raises")

    def _wait_after(self, error: ApiError, attempt: int) -> float | None:
        """Tell how long to wait before the next try; None when there is no use in one."""
        if error.reason not in ("rate_limited", "server_error", "network"):
            return None
        if error.retry_after_seconds is not None:
            return error.retry_after_seconds
        return self._random() * FIRST_BACKOFF_SECONDS * (1 << attempt - 1)

    async def _wait_for_turn(self, heartbeat: Heartbeat) -> None:
        started = self._clock()
        try:
            await self._limiter.acquire(heartbeat)
        except PausedError as error:
            raise ApiError("rate_limited", str(error), retry_after_seconds=error.seconds) from error
        finally:
            self._telemetry.throttled(self._clock() - started)

    async def _try(
        self,
        path: str,
        params: Mapping[str, str],
        key: Callable[[], str],
        org_id: str,
        heartbeat: Heartbeat,
    ) -> Answer:
        secret = _read_key(key)
        request = self._client.build_request(
            "GET",
            self._base_url + path,
            params=dict(params),
            headers={"Authorization": f"Bearer {secret}"},
        )
        heartbeat(self._timeout_seconds)
        seen = _Seen()
        started = self._clock()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await self._exchange(request, secret, seen)
        except ApiError:
            raise
        except BadBodyError as error:
            raise BadAnswerError(one_line(str(error), secret)) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            raise ApiError(
                "timeout", f"no complete answer within {self._timeout_seconds:g} s"
            ) from error
        except Exception as error:
            # httpx, its backends and ssl let exceptions out that share no base class; what they
            # say of the network is one reason, and a poll must outlive all of them.
            what = one_line(str(error), secret) or "no further words"
            raise ApiError(
                "network", f"{type(error).__name__}: {what}", status=seen.status
            ) from error
        finally:
            code = "error" if seen.status is None else str(seen.status)
            self._telemetry.request_done(org_id, code, self._clock() - started)

    async def _exchange(self, request: httpx.Request, secret: str, seen: _Seen) -> Answer:
        response = await self._client.send(request, stream=True)
        try:
            seen.status = response.status_code
            if response.status_code != HTTPStatus.OK:
                text = await read_error_text(response, secret)
                raise self._error_of(response, text, secret)
            body = bytearray()
            async for piece in decoded(response):
                body += piece
                if len(body) > self._max_response_bytes:
                    raise TooLargeError(
                        self._max_response_bytes, bytes(body[:CHUNK_BYTES]), response.status_code
                    )
            return Answer(response.status_code, response.headers, body)
        finally:
            await response.aclose()

    def _error_of(self, response: httpx.Response, text: str, secret: str) -> ApiError:
        status = response.status_code
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            target = one_line(response.headers.get("location", "").split("?")[0], secret)
            return ApiError(
                "invalid_response",
                f"HTTP {status}: redirect to {target or 'nowhere'} not followed",
                status=status,
            )
        retry_after_seconds = parse_retry_after(
            response.headers.get("retry-after"), response.headers.get("date"), self._wall_clock()
        )
        return ApiError(
            _reason_of(status),
            f"HTTP {status}: {text}" if text else f"HTTP {status}",
            retry_after_seconds=retry_after_seconds,
            status=status,
        )


@dataclass(slots=True)
class _Seen:
    """What is known of a try, whatever breaks it off."""

    status: int | None = None


def _reason_of(status: int) -> str:
    reasons = {
        HTTPStatus.UNAUTHORIZED: "unauthorized",
        HTTPStatus.FORBIDDEN: "forbidden",
        HTTPStatus.NOT_FOUND: "not_found",
        HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
    }
    if status in reasons:
        return reasons[HTTPStatus(status)]
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "server_error"
    return "bad_request" if status >= HTTPStatus.BAD_REQUEST else "invalid_response"


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
