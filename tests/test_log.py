"""What a log line looks like, whatever its fields hold, and that no secret is in it."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from invent_exporter.log import FORMATS, LEVELS, get_logger, setup_logging
from invent_exporter.redaction import Redactor

SECRET = 'not-a-"real"-key'
NASTY = 'a\nb\rc\td\x00e\x1b[31mf\u2028g\x85h\ud800i\udcffj\u202ek"l\\m=n\U0001f600é'


pytestmark = pytest.mark.usefixtures("restored_logging")


def start(form: str, level: str = "debug") -> io.StringIO:
    """Set logging up to write into a buffer."""
    redactor = Redactor()
    redactor.add(SECRET)
    root = logging.getLogger()
    # pytest's own raise where a real program's do not.
    root.handlers[:] = [each for each in root.handlers if "pytest" not in type(each).__module__]
    stream = io.StringIO()
    setup_logging(level, form, redactor, stream)
    return stream


def one_line(stream: io.StringIO) -> str:
    """Return the only line that was written."""
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    return text[:-1]


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    """Return the lines, decoded as strict UTF-8 JSON."""
    lines = stream.getvalue().encode("utf-8").splitlines()
    return [json.loads(line, parse_constant=fail) for line in lines]


def fail(text: str) -> None:
    """Raise an error."""
    raise ValueError(text)


def test_logfmt_begins_with_time_level_and_message() -> None:
    """The time is UTC with milliseconds; values are quoted where they need it."""
    stream = start("logfmt")
    get_logger("collector").warning(
        "run failed", org_id="c", credits=1.5, error='say "no"', none=None, ok=True, tags=["a", 1]
    )
    assert re.fullmatch(
        r"ts=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z level=warn "
        r'msg="run failed" logger=collector org_id=c credits=1\.5 '
        r'error="say \\"no\\"" none=null ok=true tags="\[\\"a\\",1\]"',
        one_line(stream),
    )


def test_json_has_the_same_fields_with_their_types() -> None:
    """The order is the same too."""
    stream = start("json")
    get_logger("collector").info("polled", runs=3, idle=False, open={"a": 1}, name="Müller")
    assert re.fullmatch(
        r'\{"ts":"[-0-9T:.]{23}Z","level":"info","msg":"polled","logger":"collector","runs":3,'
        r'"idle":false,"open":\{"a":1\},"name":"Müller"\}',
        one_line(stream),
    )


def test_lines_below_the_level_are_left_out() -> None:
    """Each level shows itself and what is graver."""
    log = get_logger("x")
    for position, level in enumerate(LEVELS):
        stream = start("json", level)
        for write in (log.debug, log.info, log.warning, log.error):
            write("hello")
        assert [line["level"] for line in objects(stream)] == [*LEVELS][position:]


class Unshowable:
    """A value whose text can't be had."""

    def __str__(self) -> str:
        raise RuntimeError(SECRET)

    __repr__ = __str__


def endless() -> list[object]:
    """Return a list that holds itself."""
    items: list[object] = []
    items.append(items)
    return items


@pytest.mark.parametrize("form", ["logfmt", "json"])
@pytest.mark.parametrize(
    "value",
    [
        NASTY,
        NASTY.encode("utf-8", "surrogatepass"),
        [NASTY, {NASTY: NASTY}],
        ValueError(NASTY),
        Unshowable(),
        [Unshowable()],
        endless(),
        math.nan,
        -math.inf,
        10**5000,
        "x" * 1_000_000,
        ["x"] * 100_000,
        object(),
        {1, 2},
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_line_is_one_line_whatever_a_field_holds(form: str, value: object) -> None:
    """Line breaks, control characters, half surrogates, loops, huge or broken values."""
    stream = start(form)
    get_logger("x").info("hello", value=value)
    line = one_line(stream)
    assert "value" in line
    assert SECRET not in line
    assert len(line) < 40_000
    if form == "json":
        assert objects(stream)[0]["msg"] == "hello"


def test_what_is_hostile_arrives_as_it_was() -> None:
    """Escapes are undone by the reader, half a surrogate pair has no valid form; depth ends."""
    stream = start("json")
    get_logger("x").info(NASTY, value=NASTY, deep=endless(), ts=1, msg=3, **{"a b": 2})
    (line,) = objects(stream)
    expected = re.sub("[\ud800-\udfff]", "\ufffd", NASTY)
    assert (line["msg"], line["value"], line["deep"]) == (expected, expected, [[[[[["[[...]]"]]]]]])
    # A field does not replace one of the first, and its name is one in both formats.
    assert (line["ts_"], line["msg_"], line["a_b"]) == (1, 3, 2)


@pytest.mark.parametrize("form", FORMATS)
def test_no_secret_is_in_a_line(form: str) -> None:
    """In the message, fields, names, nested values, exceptions, URLs and cut-off texts."""
    stream = start(form)
    log = get_logger("x")
    try:
        fail(f"Bearer {SECRET}")
    except ValueError as error:
        log.exception(SECRET, error=error, **{SECRET: 1})
    padded = "x" * 9_990 + SECRET
    log.warning("nested", value={"a": [SECRET, {SECRET: SECRET.encode()}]}, padded=padded)
    log.warning(
        "spelled", json=json.dumps(SECRET), url=str(httpx.URL("http://x", params={"k": SECRET}))
    )
    logging.getLogger("lib").error("key %s", SECRET)
    text = stream.getvalue()
    assert text.count("redacted") >= 10
    assert "not-a-" not in text
    assert "real" not in text


def test_lines_of_libraries_take_the_same_way_from_warning_on() -> None:
    """With their logger's name; arguments that don't fit cost nothing but themselves."""
    stream = start("json")
    library = logging.getLogger("some.library")
    library.info("not shown")
    library.warning("slow: %d\n", 3)
    library.error("broken %d", "x")
    try:
        fail(NASTY)
    except ValueError:
        library.critical("failed", exc_info=True)
    lines = objects(stream)
    assert [(line["level"], line["msg"], line["logger"]) for line in lines] == [
        ("warn", "slow: 3\n", "some.library"),
        ("error", "broken %d", "some.library"),
        ("error", "failed", "some.library"),
    ]
    assert lines[2]["exception"].startswith("Traceback (most recent call last):\n")


def test_a_second_setup_replaces_the_first() -> None:
    """Each line is written once, by loggers that were made before too."""
    log = get_logger("x")
    first = start("json")
    log.error("hello")
    second = start("logfmt", "error")
    log.error("hello")
    logging.getLogger("lib").warning("below the level")
    logging.getLogger("lib").error("hello")
    assert (first.getvalue().count("\n"), second.getvalue().count("\n")) == (1, 2)


def test_a_closed_or_broken_stream_costs_the_line_alone() -> None:
    """There is no other place to tell it; stderr of a C locale gets escapes."""
    closed = start("json")
    closed.close()
    get_logger("x").info("hello")
    setup = "from invent_exporter.log import *; setup_logging('info', 'logfmt', Redactor());"
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        for stderr, alive in ((subprocess.PIPE, r"msg=M\xfcller"), (full, "")):
            done = subprocess.run(
                [sys.executable, "-c", f"{setup} get_logger('x').info('Müller'); print('alive')"],
                cwd=Path(__file__).parents[1],
                env={"PYTHONIOENCODING": "ascii"},
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                check=False,
                timeout=60,
            )
            assert (done.stdout, alive in (done.stderr or "")) == ("alive\n", True)


def test_lines_of_many_threads_do_not_mix() -> None:
    """Each is written whole."""
    stream = start("json")
    with ThreadPoolExecutor(4) as threads:
        for number in range(400):
            threads.submit(get_logger("x").info, "hello", number=number)
    assert sorted(line["number"] for line in objects(stream)) == [*range(400)]
