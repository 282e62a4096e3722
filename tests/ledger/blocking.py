"""A ledger whose steps are waited for, for tests that have no event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from invent_exporter.ledger.ledger import Ledger


class BlockingLedger:
    """Has the ledger's methods without `await`."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self._runner = asyncio.Runner()

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        method = getattr(self.ledger, name)

        def call(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401
            return self._runner.run(method(*arguments, **options))

        return call

    @property
    def engine(self) -> Any:  # noqa: ANN401
        """The engine of the ledger's database."""
        return self.ledger._database.engine

    def close(self) -> None:
        """Let go of the file."""
        self.ledger.close()
        self._runner.close()
