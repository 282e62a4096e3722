"""A thread for what would hold the event loop up, one piece of work after the other.

It is a daemon: no exit waits for it, as it would for `asyncio.to_thread`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")


class Worker:
    """One thread, which begins with the first piece of work."""

    def __init__(self) -> None:
        self._queue: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="decoder", daemon=True)

    async def run(self, function: Callable[[], T]) -> T:
        """Return what the function returns, or raise what it raises."""
        done: Future[T] = Future()
        if self._thread.ident is None:
            self._thread.start()
        self._queue.put(partial(_work, done, function))
        try:
            return await asyncio.wrap_future(done)
        finally:
            del done  # as in `_work`

    def _run(self) -> None:
        while True:
            self._queue.get()()


def _work(done: Future[T], function: Callable[[], T]) -> None:
    if done.set_running_or_notify_cancel():
        try:
            done.set_result(function())
        except BaseException as error:  # noqa: BLE001 - whoever waits for it gets it
            done.set_exception(error)
            # An error holds the frames that it went through, and one of them what holds the error:
            # in a circle, the body that was decoded would stay until garbage is collected.
            del done
