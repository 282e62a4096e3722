"""One GET request to the API: paced, tried again, bounded in time and size.

Whatever goes wrong ends as one `ApiError` with a reason of the contract. Retrying and waiting live
together here, because `Retry-After` touches both.

Longer than most modules: what a request is bounded by, and how each failure ends, side by side.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus

import httpx

from invent_exporter.api.bodies import (
    CHUNK_BYTES,
    ERROR_BODY_BYTES,
    decoded,
    error_text,
    kind_of,
    one_line,
    read_beginning,
)
from invent_exporter.api.budget import Budget, Lease
from invent_exporter.api.client import make_client
from invent_exporter.api.models import EARLIEST_SECONDS
from invent_exporter.api.ratelimit import (
    MAX_WAIT_SECONDS,
    Heartbeat,
    RateLimiter,
    http_date,
    parse_retry_after,
)
from invent_exporter.clocks import DAY_SECONDS, Clocks
from invent_exporter.config.schema import ApiConfig
from invent_exporter.errors import ApiError, BadAnswerError, BadBodyError, TooLargeError
from invent_exporter.redaction import Redactor
from invent_exporter.telemetry import Telemetry

TRIES = 4
FIRST_BACKOFF_SECONDS = 1.0
LATEST_DATE_SECONDS = 4102444800.0
"""2100. Clocks fall back to years of the past; from here on programs write "never"."""

Params = Mapping[str, str]
ReadKey = Callable[[], str]
_REASONS: Mapping[int, str] = {
    HTTPStatus.UNAUTHORIZED: "unauthorized",
    HTTPStatus.FORBIDDEN: "forbidden",
    HTTPStatus.NOT_FOUND: "not_found",
    HTTPStatus.TOO_MANY_REQUESTS: "rate_limited",
    4: "bad_request",  # any other 4xx, and so on
    5: "server_error",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer with status 200, its body decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes | bytearray
    asked_seconds: float
    """Our time when it was asked for."""
    release: Callable[[], None] = lambda: None
    """To be called when the body was decoded: until then it counts in the budget of all."""

    @property
    def date_seconds(self) -> float | None:
        """The API's time of the answer, however far from ours; None where it tells none."""
        date = http_date(self.headers.get("date", ""))
        can_be = date is not None and EARLIEST_SECONDS <= date < LATEST_DATE_SECONDS
        return date if can_be else None

    @property
    def latest_seconds(self) -> float:
        """The latest time that a run can tell: a day ahead of the API's clock and ours."""
        return max(self.asked_seconds, self.date_seconds or 0.0) + DAY_SECONDS


@dataclass(slots=True)
class _Client:
    """The connections to one API, and how many requests use them now."""

    http: httpx.AsyncClient
    requests: int = 0

    async def close_unless_used(self) -> None:
        if self.requests == 0:
            await self.http.aclose()


class Transport:
    """GET requests to one API, over connections that are kept; see `make_client` for errors."""

    def __init__(
        self,
        config: ApiConfig,
        telemetry: Telemetry,
        clocks: Clocks,
        redactor: Redactor,
        version: str = "dev",
    ) -> None:
        self._version = version
        self._telemetry = telemetry
        self._clocks = clocks
        self._redact = redactor.redact
        self._limiter = RateLimiter(config.requests_per_minute, clocks)
        self._budget = Budget()
        self._config = config
        self._client = self._make_client(config)
        self._is_open = asyncio.Event()
        self._is_open.set()

    def _make_client(self, config: ApiConfig) -> _Client:
        timeout = config.timeout_seconds
        return _Client(make_client(config.url, version=self._version, timeout_seconds=timeout))

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.http.aclose()

    @asynccontextmanager
    async def changing(self, config: ApiConfig) -> AsyncIterator[None]:
        """Ask as this says from now on; what is under way ends as it began.

        Nothing is asked within the block, in which keys change too: none may get to a host that it
        was not given for. Raises ConfigError, and has changed nothing then.
        """
        before = self._client
        is_same = (config.url, config.timeout_seconds) == (
            self._config.url,
            self._config.timeout_seconds,
        )
        client = before if is_same else self._make_client(config)
        self._is_open.clear()
        try:
            self._config, self._client = config, client
            self._limiter.apply(config.requests_per_minute)
            yield
        finally:
            self._is_open.set()
        if not is_same:
            await before.close_unless_used()

    async def get(
        self, path: str, params: Params, key: ReadKey, org_id: str, heartbeat: Heartbeat
    ) -> Answer:
        """Ask until an answer with status 200 is complete, or there is no use in asking again.

        5xx, 429 and network errors are tried up to four times; a timeout is the caller's, who may
        ask for less. `org_id` is a label of the request's metrics.

        Raises:
            ApiError: whatever went wrong.

        """
        waited_seconds = 0.0
        for attempt in range(1, TRIES + 1):
            is_probe = await self._wait_for_turn(org_id, heartbeat)
            try:
                return await self._try(path, params, key, org_id, heartbeat, is_probe=is_probe)
            except ApiError as error:
                wait_seconds = self._wait_after(error, attempt)
                if wait_seconds is None:
                    raise
                if error.reason == "rate_limited":
                    self._limiter.pause(org_id, wait_seconds)
                waited_seconds += wait_seconds
                if attempt == TRIES or waited_seconds > MAX_WAIT_SECONDS:
                    raise
                if error.reason != "rate_limited":  # the limiter does that wait
                    heartbeat(wait_seconds)
                    await self._clocks.sleep(wait_seconds)
                    if error.retry_after_seconds is not None:
                        self._telemetry.throttled(wait_seconds)
        raise AssertionError("the last try returns or raises")

    def _wait_after(self, error: ApiError, attempt: int) -> float | None:
        """Tell how long to wait before the next try; None when there is no use in one."""
        if error.reason not in ("rate_limited", "server_error", "network"):
            return None
        if error.retry_after_seconds is not None:
            return error.retry_after_seconds
        return self._clocks.random() * FIRST_BACKOFF_SECONDS * (1 << attempt - 1)

    async def _wait_for_turn(self, org_id: str, heartbeat: Heartbeat) -> bool:
        started = self._clocks.monotonic()
        try:
            return await self._limiter.acquire(org_id, heartbeat)
        finally:
            self._telemetry.throttled(self._clocks.monotonic() - started)

    async def _try(
        self,
        path: str,
        params: Params,
        key: ReadKey,
        org_id: str,
        heartbeat: Heartbeat,
        *,
        is_probe: bool,
    ) -> Answer:
        """Ask once; where that shall tell whether a pause still holds, let the limiter know."""
        is_answered = False
        try:
            answer = await self._ask(path, params, key, org_id, heartbeat)
            is_answered = True
            return answer
        except ApiError as error:
            is_answered = error.status not in (None, HTTPStatus.TOO_MANY_REQUESTS)
            raise
        finally:
            if is_probe:
                self._limiter.probed(org_id, is_answered=is_answered)

    async def _ask(
        self, path: str, params: Params, key: ReadKey, org_id: str, heartbeat: Heartbeat
    ) -> Answer:
        await self._is_open.wait()
        secret, client = _read_key(key), self._client
        url, headers = self._config.url + path, {"Authorization": f"Bearer {secret}"}
        request = client.http.build_request("GET", url, params=params, headers=headers)
        heartbeat(self._config.timeout_seconds)
        status: int | None = None  # what is known of the try, whatever breaks it off
        started, asked_seconds = self._clocks.monotonic(), self._clocks.time()
        lease, answer = Lease(self._budget), None
        client.requests += 1
        try:
            async with asyncio.timeout(self._config.timeout_seconds) as deadline:
                response = await client.http.send(request, stream=True)
                async with aclosing(response):
                    status = response.status_code
                    grow = partial(lease.grow, deadline=deadline, heartbeat=heartbeat)
                    body = await self._read(response, grow)
            answer = Answer(status, response.headers, body, asked_seconds, lease.release)
            return answer
        except ApiError:
            raise
        except BadBodyError as error:
            raise BadAnswerError(one_line(str(error), self._redact)) from error
        except (TimeoutError, httpx.TimeoutException) as error:
            message = f"no complete answer within {self._config.timeout_seconds:g} s"
            raise ApiError("timeout", message) from error
        except Exception as error:
            # httpx, its backends and ssl let exceptions out that share no base class; what they
            # say of the network is one reason, and a poll must outlive all of them.
            # h11 quotes what stands in a wrong place, which may be a piece of a page.
            said = str(error).partition(": bytearray(")[0]
            what = one_line(said, self._redact) or "no further words"
            message = f"{type(error).__name__}: {what}"
            raise ApiError("network", message, status=status) from error
        finally:
            if answer is None:
                lease.release()
            code = "error" if status is None else str(status)
            self._telemetry.request_done(org_id, code, self._clocks.monotonic() - started)
            client.requests -= 1
            if client is not self._client:
                await client.close_unless_used()

    async def _read(
        self, response: httpx.Response, grow: Callable[[int], Awaitable[None]]
    ) -> bytearray:
        status, body = response.status_code, bytearray()
        if status != HTTPStatus.OK:
            raise self._error_of(response, await read_beginning(response))
        async for piece in decoded(response):
            await grow(len(body) + len(piece))
            body += piece
            if len(body) > self._config.max_response_bytes:
                raise TooLargeError(
                    self._config.max_response_bytes, bytes(body[:CHUNK_BYTES]), status
                )
        return body

    def _error_of(self, response: httpx.Response, body: bytearray) -> ApiError:
        status, headers = response.status_code, response.headers
        if response.is_success:
            size = f"{'at least ' * (len(body) >= ERROR_BODY_BYTES)}{len(body)} bytes"
            what = kind_of(body) + (f" ({size})" if body else "")
            message = f"HTTP {status}, expected 200; the body is {what}"
            return ApiError("invalid_response", message, status=status)
        if HTTPStatus.MULTIPLE_CHOICES <= status < HTTPStatus.BAD_REQUEST:
            where = headers.get("location", "").split("?")[0]
            target = one_line(where, self._redact) or "nowhere"
            message = f"HTTP {status}: redirect to {target} not followed"
            return ApiError("invalid_response", message, status=status)
        retry_after_seconds = parse_retry_after(
            headers.get("retry-after"), headers.get("date"), self._clocks.time()
        )
        text = error_text(body, self._redact)
        return ApiError(
            _REASONS.get(status) or _REASONS.get(min(status // 100, 5), "invalid_response"),
            f"HTTP {status}: {text}" if text else f"HTTP {status}",
            retry_after_seconds=retry_after_seconds,
            status=status,
        )


def _read_key(key: ReadKey) -> str:
    try:
        secret = key()
    except Exception as error:
        # However a key is kept, a key that can't be read is this org's failure and no other's.
        raise ApiError("unauthorized", f"the key can't be read: {error}") from error
    if not secret or not secret.isascii() or not secret.isprintable() or secret.strip() != secret:
        # h11 would refuse it as well, and show it in the error.
        raise ApiError("unauthorized", "the key is empty or has characters that no header carries")
    return secret
