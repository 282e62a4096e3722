"""Reads the configuration again while the exporter runs: all of it counts, or nothing does."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from invent_exporter.clocks import Clocks
from invent_exporter.config.load import Config, load_config
from invent_exporter.config.yaml_nodes import read
from invent_exporter.errors import ConfigError
from invent_exporter.log import get_logger
from invent_exporter.redaction import Redactor
from invent_exporter.telemetry import Telemetry

LOOK_SECONDS: Final = 1.0
"""How often the file is looked at; what is the same at two looks is not being written any more."""

log = get_logger(__package__)


class Reloader:
    """The configuration as it counts now, and the one way to exchange it."""

    def __init__(
        self,
        path: Path | None,
        *,
        environ: Mapping[str, str],
        redactor: Redactor,
        config: Config,
        apply: Callable[[Config], Awaitable[None]],
        telemetry: Telemetry,
        clocks: Clocks,
    ) -> None:
        """Begin with what was read from this file; without one there is nothing to read again.

        `apply` lets another configuration count; it raises ConfigError before it changed anything.
        """
        self._path = path
        self._environ = environ
        self._redactor = redactor
        self._config = config
        self._apply = apply
        self._telemetry = telemetry
        self._clocks = clocks
        self._content: bytes | None = None
        self._one_at_a_time = asyncio.Lock()
        self._wake = asyncio.Event()
        telemetry.config_read(clocks.time())

    def ask(self) -> None:
        """Let `run` reload at once."""
        self._wake.set()

    async def reload(self) -> str | None:
        """Let the file as it is now count; say in one line why it can't, and go on as before.

        An unchanged file does nothing. The keys in key files need no reload.
        """
        if self._path is None:
            return None
        async with self._one_at_a_time:
            try:
                await self._reload(self._path)
            except ConfigError as error:
                problem = str(error)
            except Exception as error:
                # Whatever a file holds, it must not end the process.
                problem = f"unexpected: {type(error).__name__}: {error}"
                log.exception("a reload met a bug")
            else:
                return None
            self._content = None
            self._telemetry.config_read(None)
            log.error("configuration not reloaded; the one before goes on", error=problem)
            return self._redactor.redact(problem)

    async def _reload(self, path: Path) -> None:
        content = await asyncio.to_thread(read, path)
        if content == self._content:
            return
        config = await asyncio.to_thread(
            load_config, path, self._environ, self._redactor, self._config
        )
        if config != self._config:
            await self._apply(config)
            log.info("configuration reloaded", orgs=len(config.orgs))
        self._config, self._content = config, content
        self._telemetry.config_read(self._clocks.time())

    async def run(self) -> NoReturn:
        """Reload when asked to, and when the file is another one, until cancelled."""
        tried: tuple[int, ...] | None = None  # it may be another one than was read at the start
        seen = await self._version()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), LOOK_SECONDS)
            before, seen = seen, await self._version()
            if self._wake.is_set() or (seen == before and seen != tried):
                self._wake.clear()
                tried = seen
                await self.reload()

    async def _version(self) -> tuple[int, ...]:
        """Tell one file from another behind the same path, through symlinks; () for none."""
        return () if self._path is None else await asyncio.to_thread(_version_of, self._path)


def _version_of(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)  # noqa: PTH116 - all of it
    except (OSError, ValueError):
        return ()
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
