"""Replicas of the exporter, each with a network of its own to the database that they share."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from tests.ha.proxy import Proxy
from tests.process.harness import Exporter, free_port


class Replica(Exporter):
    """One `serve`, behind its proxy, on a port that stays the same."""

    def __init__(self, name: str, folder: Path, config: dict[str, Any], database_port: int) -> None:
        """Prepare; `config` has the database's URL with `PORT` in it."""
        folder.mkdir()
        self.name = name
        self.port = free_port()
        self.network = Proxy(database_port).__enter__()
        url = config["state"]["url"].replace("PORT", str(self.network.port))
        own = {**config, "state": {**config["state"], "url": url}}
        super().__init__(folder, own, arguments=(f"--web.listen-address=127.0.0.1:{self.port}",))

    def __exit__(self, *_: object) -> None:
        """End it, whatever it does."""
        super().__exit__()
        self.network.__exit__()

    @property
    def is_running(self) -> bool:
        """Whether its process is there, be it frozen or not."""
        return self.process is not None and self.process.poll() is None

    def freeze(self) -> None:
        """Stop its process as a paused virtual machine is stopped."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)


class Fleet:
    """So many replicas at most; some of them run."""

    def __init__(self, folder: Path, config: dict[str, Any], database_port: int, most: int) -> None:
        """Prepare them all, each with its port, so that a Prometheus can know them beforehand."""
        self.replicas = [
            Replica(name, folder / name, config, database_port) for name in "abcdefgh"[:most]
        ]

    def __enter__(self) -> Self:
        """Start none yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """End all of them."""
        for replica in self.replicas:
            replica.__exit__()

    @property
    def running(self) -> list[Replica]:
        """Those whose process is there."""
        return [replica for replica in self.replicas if replica.is_running]

    def start(self, replicas: Sequence[Replica]) -> None:
        """Start these side by side, and wait until they listen."""
        for replica in replicas:
            replica.launch()
        for replica in replicas:
            replica.wait_until_listening()

    def said(self, lines: int = 15) -> str:
        """Return the last lines of each log."""
        return "\n".join(
            f"--- {replica.name}\n" + "\n".join(replica.log.splitlines()[-lines:])
            for replica in self.replicas
            if replica.log_file.exists()
        )
