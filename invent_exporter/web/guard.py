"""Before the application: what a web configuration asks of a client, as its files are now."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from math import inf
from pathlib import Path
from ssl import SSLContext
from typing import TYPE_CHECKING

from invent_exporter.config.web import WebConfig, load_web_config
from invent_exporter.errors import ConfigError
from invent_exporter.log import get_logger
from invent_exporter.web.auth import Logins, TooManyLoginsError
from invent_exporter.web.routes import Response, header, send_response, text
from invent_exporter.web.tls import CurrentContext, make_context

if TYPE_CHECKING:
    from uvicorn._types import (
        ASGI3Application,
        ASGIReceiveCallable,
        ASGISendCallable,
        ASGISendEvent,
        HTTPScope,
        Scope,
    )

    from invent_exporter.web.connection import Connection

_LOOK_SECONDS = 1.0
_NOT_TAKEN = "web configuration not taken, the one before stays"

log = get_logger(__name__)


class WebFile:
    """A web configuration; read again when it or a file that it names changes.

    While they can't be used, the last that could stays.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Read everything once; `clock` never goes back (seconds).

        Raises:
            ConfigError: a mistake, in one line that names file, line and key.

        """
        self._clock = clock
        self._looked = clock()
        self._files = [path]
        self._seen = _versions(self._files)
        self._config, self._context = self._load()
        current = CurrentContext.of(self._current_context)
        self.tls: SSLContext | None = None if self._context is None else current
        """For a server: each connection begins with what the files say then."""

    def guard(self, app: ASGI3Application) -> Guard:
        """Put an application behind what the files ask."""
        return Guard(app, self)

    def read(self) -> WebConfig:
        """Return what the files say, as of a second ago at most."""
        now = self._clock()
        if now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            seen = _versions(self._files)
            if seen != self._seen:
                self._seen = seen
                self._read_again()
        return self._config

    def _read_again(self) -> None:
        try:
            config, context = self._load()
        except ConfigError as error:
            log.error(_NOT_TAKEN, error=str(error))  # noqa: TRY400 -- no bug: one line says it
            return
        if (context is None) != (self.tls is None):
            log.error(_NOT_TAKEN, error="TLS can't begin or end while it runs: expected a restart")
            return
        self._config, self._context = config, context
        log.info("web configuration read again", file=str(self._files[0]))

    def _load(self) -> tuple[WebConfig, SSLContext | None]:
        """Read all; what it looks at for changes is known even if the files can't be used."""
        path = self._files[0]
        config = load_web_config(path)
        pems = (config.tls.certificate, config.tls.key, config.tls.client_ca)
        named = [pem.path for pem in pems if pem is not None and pem.path is not None]
        self._files = [path, *named]
        self._seen = [self._seen[0], *_versions(named)]
        return config, make_context(config.tls)

    def _current_context(self) -> SSLContext:
        self.read()
        assert self._context is not None  # noqa: S101 -- else no server has `tls`
        return self._context


def _versions(files: Iterable[Path]) -> list[tuple[int, ...] | None]:
    """Tell one state of files from another."""
    versions: list[tuple[int, ...] | None] = []
    for file in files:
        try:
            status = file.stat()
        except (OSError, ValueError):
            versions.append(None)
        else:
            of_file = (status.st_dev, status.st_ino, status.st_size)
            versions.append((*of_file, status.st_mtime_ns, status.st_ctime_ns))
    return versions


class Guard:
    """An ASGI application before another: it lets through who may, and not too often."""

    def __init__(
        self, app: ASGI3Application, file: WebFile, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Ask of a client what the file asks; `clock` never goes back (seconds)."""
        self._app = app
        self._file = file
        self._clock = clock
        self._logins = Logins()
        self._spent_until = -inf
        """When the tokens of `rate_limit` that were taken are back."""

    async def __call__(
        self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable
    ) -> None:
        """Answer one request, or let it be answered."""
        if scope["type"] != "http":
            return
        config = self._file.read()
        connection: Connection = scope["state"]["connection"]
        if (
            config.tls.client_allowed_sans
            and not _names(connection) & config.tls.client_allowed_sans
        ):
            connection.abort()
            return

        async def send_more(message: ASGISendEvent) -> None:
            if message["type"] == "http.response.start":
                have = {name for name, _ in message["headers"]}
                more = [(name.encode(), value.encode()) for name, value in config.headers.items()]
                added = [header for header in more if header[0] not in have]
                message["headers"] = [*message["headers"], *added]
            await send(message)

        refusal = await self._refusal(scope, config, connection)
        if refusal is None:
            await self._app(scope, receive, send_more)
        else:
            await send_response(scope, send_more, refusal)

    async def _refusal(
        self, scope: HTTPScope, config: WebConfig, connection: Connection
    ) -> Response | None:
        if not self._is_in_time(config):
            return text(429, "Too many requests.", connection="close")
        if not config.users:
            return None
        try:
            login = header(scope, b"authorization")
            if await self._logins.lets_in(login, config.users, connection.peer):
                return None
        except TooManyLoginsError:
            wait = {"retry-after": "1", "connection": "close"}
            return text(429, "Too many logins are being checked, try again later.", **wait)
        return text(401, "Unauthorized.", **{"www-authenticate": "Basic"})

    def _is_in_time(self, config: WebConfig) -> bool:
        """Take a token from the bucket of `rate_limit`, if one is there."""
        now, interval = self._clock(), config.request_interval_seconds
        spent_until = max(self._spent_until, now) + interval
        if spent_until - now > interval * config.request_burst:
            return False
        self._spent_until = spent_until
        return True


def _names(connection: Connection) -> set[str]:
    """List what the client's certificate is for, as Go spells it."""
    certificate = connection.transport.get_extra_info("peercert") or {}
    names = certificate.get("subjectAltName", ())
    return {str(ip_address(value)) if kind == "IP Address" else value for kind, value in names}
