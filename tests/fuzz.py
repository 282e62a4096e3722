"""Throw made-up bytes at what meets strangers: the decoder of pages, and the HTTP port.

python -m tests.fuzz --seconds 3600
python -m tests.fuzz --seed 17          # the rounds of that seed, once more

Each round changes something that is kept in `tests/corpus`, and sees that it ends in what is
allowed. What does not is added there, where `test_fuzz` finds it again.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from invent_exporter.api.decoding import DecodedPage, decode_page
from invent_exporter.api.models import INVALID_REASONS
from invent_exporter.errors import ApiError, SpoiledPageError
from invent_exporter.ledger.counts import WorkflowCounts
from invent_exporter.scan.order import row_signature
from tests.proof.runs import BOUNDS
from tests.web.running import GET_READY, Running, read_answer, read_to_end, serving

CORPUS = Path(__file__).parent / "corpus"
LONGEST = 100_000
LATEST_SECONDS = 2e9
"""As for an answer: there is always a latest time that a run can tell."""
_CHANGES = 6
_LENGTHS = (0, 0, 1, 1, 4, 32, 500)
_REPEATS = (2, 2, 10, 1000)
_TOKENS = (
    *(
        b"\r\n",
        b"\n",
        b"\r\n\r\n",
        b"\0",
        b"\xff\xfe",
        b"%00",
        b"%",
        b"../",
        b"*",
        b" ",
        b": ",
        b"HTTP/1.1",
    ),
    *(b"Host: y", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Expect: 100-continue"),
    *(b"Connection: close", b"Upgrade: websocket", b"Accept-Encoding: gzip;q=", b"POST", b"HEAD"),
    *(
        b'"',
        b"\\",
        b"\\u0000",
        b"\\ud800",
        b"[",
        b"]",
        b"{",
        b"}",
        b",",
        b"null",
        b"NaN",
        b"-1e999",
    ),
    *(b'"id":', b'"status":', b'"usage":', b'"created_at":', b'"steps":', b"0001-01-01T00:00:00Z"),
)
Target = Callable[[bytes], None]


@dataclass(frozen=True)
class Finding:
    """Bytes that did not end in what is allowed; they are in the corpus now."""

    target: str
    path: Path
    failure: str


def decode(body: bytes) -> None:
    """Decode a page, and read of each run all that is ever read of it."""
    refused: ApiError | None = None
    try:
        page = decode_page(body, LATEST_SECONDS)
    except SpoiledPageError:
        assert body.lstrip()[:1] == b"["
        return
    except ApiError as error:
        refused, page = error, DecodedPage([], [])
    if refused is not None:
        assert refused.reason == "invalid_response"
        assert "\n" not in refused.message
    assert page.rows == len(page.runs) + len(page.invalid)
    assert all(invalid.reason in INVALID_REASONS for invalid in page.invalid)
    counts = WorkflowCounts.empty(BOUNDS)
    for run in page.runs:
        counts.learn(run)
        counts.submit(run)
        counts.finish(run)
        counts.conclude(run)
        counts.spend_first("TRIGGER/FAILED", run)
        assert all(credits_of_it > 0 for credits_of_it in run.step_credits.values())
        assert isinstance(run.is_final, bool)
        row_signature(run)


def ask(running: Running, sent: bytes) -> None:
    """Send it: an answer that is not a 500, or an end, and the server serves on."""
    with running.connect() as raw:
        with contextlib.suppress(OSError):
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
        assert read_to_end(raw)[:10] in (b"", b"HTTP/1.1 1", b"HTTP/1.1 2", b"HTTP/1.1 4")
    with running.connect(GET_READY) as raw:
        assert read_answer(raw).endswith(b"Ready.\n")


@contextlib.contextmanager
def targets() -> Iterator[dict[str, Target]]:
    """Give what takes the bytes of each folder of the corpus."""
    with serving() as running:
        yield {"pages": decode, "requests": lambda sent: ask(running, sent)}


def kept(corpus: Path, target: str) -> list[bytes]:
    """Read a folder of the corpus."""
    return [path.read_bytes() for path in sorted((corpus / target).iterdir())]


def changed(kept_bodies: list[bytes], random: Random) -> bytes:
    """Change one of the bodies in a few places."""
    body = bytearray(random.choice(kept_bodies))
    for _ in range(random.randint(1, _CHANGES)):
        begin = random.randint(0, len(body))
        end = begin + random.choice(_LENGTHS)
        match random.randrange(4):
            case 0:
                body[begin:end] = random.randbytes(random.choice(_LENGTHS))
            case 1:
                body[begin:end] = random.choice(_TOKENS)
            case 2:
                body[begin:begin] = body[begin:end] * random.choice(_REPEATS)
            case _:
                other = random.choice(kept_bodies)
                body[begin:] = other[random.randint(0, len(other)) :]
    return bytes(body[:LONGEST])


def fuzz(
    takers: Mapping[str, Target], corpus: Path, random: Random, seconds: float
) -> tuple[int, Finding | None]:
    """Try each target in turn for so long, or until one fails; return how many bodies it took."""
    seeds = {name: kept(corpus, name) for name in takers}
    ends = time.monotonic() + seconds
    rounds = 0
    while time.monotonic() < ends:
        for name, take in takers.items():
            body = changed(seeds[name], random)
            rounds += 1
            try:
                take(body)
            except Exception:  # noqa: BLE001 (whatever it is, it is the finding)
                path = corpus / name / f"found-{hashlib.sha256(body).hexdigest()[:12]}"
                path.write_bytes(body)
                return rounds, Finding(name, path, traceback.format_exc())
    return rounds, None


def main() -> int:
    """Fuzz; return 1 when something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    flags = parser.parse_args()
    with targets() as takers:
        rounds, finding = fuzz(takers, CORPUS, Random(flags.seed), flags.seconds)
    print(f"{rounds} bodies from seed {flags.seed}: ", end="")
    print("nothing found" if finding is None else finding.failure)
    if finding is not None:
        print(f"kept as {finding.path}")
    return 0 if finding is None else 1


if __name__ == "__main__":
    raise SystemExit(main())
