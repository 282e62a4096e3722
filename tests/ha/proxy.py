"""A TCP proxy on the loopback that can be a network that is cut, silent or slow."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import Final, Self

_CHUNK_BYTES: Final = 65_536


class Proxy:
    """Passes connections on to a port while it is entered; other threads may change how."""

    def __init__(self, target_port: int) -> None:
        """Prepare: everything is passed on at once."""
        self.port = 0
        self.is_dropping = False
        """Takes connections and all that is sent, and passes nothing on, either way."""
        self.delay_seconds = 0.0
        """Each piece comes so much later."""
        self._target_port = target_port
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Self:
        """Listen on a free port."""
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        """Break off all connections."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def heal(self) -> None:
        """Be a good network again. Connections whose bytes were dropped are broken off."""
        if self.is_dropping:
            asyncio.run_coroutine_threadsafe(self._break_off(), self._loop).result()
        self.is_dropping = False
        self.delay_seconds = 0.0

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._break_off()

    async def _break_off(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            with suppress(OSError):
                await self._join(reader, writer)
        except asyncio.CancelledError:
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        try:
            pumps = [
                asyncio.create_task(self._pump(reader, far_writer)),
                asyncio.create_task(self._pump(far_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        finally:
            far_writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_CHUNK_BYTES):
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            # Once a piece is gone the rest makes no sense, and nothing more is passed.
            if self.is_dropping:
                await self._swallow(reader)
                return
            writer.write(piece)
            await writer.drain()

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        while await reader.read(_CHUNK_BYTES):
            pass
        # The other side hears nothing of the end, either: as behind a cable that was pulled.
        await asyncio.Event().wait()
