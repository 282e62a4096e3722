"""Measure a scrape of 102,000 samples, against the Go client and against a constant.

The exporter has counted runs of 822 workflows. Pushgateway, which encodes with the Go client at
each scrape, holds the same `invent_*` families. The floor is an ASGI application on the
exporter's own HTTP server that answers a constant of the same size. All three are asked in turn.
"""

from __future__ import annotations

import gzip
import re
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from statistics import median
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

from bench.client import Client, request, samples_in
from bench.constant import ConstantServer
from bench.exporter import Exporter
from bench.pages import PageServer
from bench.table import Row, Size, ms

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKFLOWS = 822
TEXT = "text/plain;version=0.0.4"


@contextmanager
def filled_exporter(workflows: int, runs: int) -> Iterator[tuple[Exporter, PageServer]]:
    """Run an exporter that has learned workflows and counted runs of them."""
    with (
        PageServer(run_bytes=50, workflows=workflows, runs=workflows) as pages,
        Exporter(pages.url) as exporter,
    ):
        exporter.wait_for("invent_up", 1)
        pages.ask(f"add/{runs}")
        exporter.wait_for("invent_runs_finished_total", runs)
        yield exporter, pages


@contextmanager
def pushgateway(text: bytes) -> Iterator[int | None]:
    """Run a Pushgateway that holds this exposition; None when the program is not there."""
    program = shutil.which("prometheus-pushgateway") or shutil.which("pushgateway")
    if program is None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [program, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL
    )
    try:
        url = f"http://127.0.0.1:{port}/metrics/job/bench"
        for _ in range(500):
            try:
                with urlopen(Request(url, text, method="PUT"), timeout=60):
                    break
            except ConnectionError:
                time.sleep(0.05)
            except OSError as error:
                if not isinstance(getattr(error, "reason", None), ConnectionError):
                    raise
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def plain_text(client: Client) -> bytes:
    """Get the `invent_*` families in the text format."""
    _, content = client.body(request(accept=TEXT))
    lines = gzip.decompress(content).decode().splitlines(keepends=True)
    return "".join(line for line in lines if re.match(r"(# (HELP|TYPE) )?invent_", line)).encode()


def rows(size: Size) -> list[Row]:
    """Measure."""
    ours: list[float] = []
    constant: list[float] = []
    go: list[float] = []
    with filled_exporter(size.of(WORKFLOWS, 50), size.of(20_000, 500)) as (exporter, _):
        with exporter.client() as client:
            samples = samples_in(client.text())
            _, body = client.body(request())
            text = plain_text(client)
        with (
            ConstantServer(body) as floor,
            pushgateway(text) as go_port,
            exporter.client() as client,
            Client(floor.port) as floor_client,
        ):
            go_client = Client(go_port) if go_port is not None else None
            for number in range(size.of(600, 60)):
                ours.append(client.get(request())[0])
                constant.append(floor_client.get(request())[0])
                if go_client is not None and number % 30 == 0:
                    go.append(go_client.get(request())[0])
    made = [
        Row(
            f"scrape of {samples:,} samples, gzip, kept connection, against a constant",
            ms(ours),
            f"ASGI constant, {len(body):,} bytes: {ms(constant)}",
            f"{median(ours) / median(constant):.2f}x",
            "under 1.5x",
            median(ours) < 1.5 * median(constant),
        )
    ]
    if go:
        made.insert(
            0,
            Row(
                f"scrape of {samples:,} samples, gzip, kept connection, against Go",
                ms(ours),
                f"Pushgateway: {ms(go)}",
                f"1/{median(go) / median(ours):.0f}",
                "under 1/100",
                median(ours) * 100 < median(go),
            ),
        )
    return made
