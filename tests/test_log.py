"""What a log line looks like, whatever its fields hold, and that no secret is in it."""

from __future__ import annotations

import io
import json
import logging
import math
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import structlog

from invent_exporter.log import LEVELS, Secrets, get_logger, setup_logging

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = 'not-a-"real"-key'
NASTY = 'a\nb\rc\td\x00e\x1b[31mf\u2028g\x85h\ud800i\udcffj\u202ek"l\\m=n\U0001f600é'


@pytest.fixture(autouse=True)
def _restored_logging() -> Iterator[None]:
    """Leave structlog and the root logger as they were."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def start(
    log_format: str, *, level: str = "debug", secrets: tuple[str, ...] = (SECRET,)
) -> io.StringIO:
    """Set logging up to write into a buffer."""
    known = Secrets()
    for secret in secrets:
        known.add(secret)
    root = logging.getLogger()
    # pytest's own raise where a real program's do not.
    root.handlers[:] = [each for each in root.handlers if "pytest" not in type(each).__module__]
    stream = io.StringIO()
    setup_logging(level, log_format, known, stream)
    return stream


def fail(text: str) -> None:
    """Raise an error."""
    raise ValueError(text)


def one_line(stream: io.StringIO) -> str:
    """Return the only line that was written."""
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    return text[:-1]


def one_object(stream: io.StringIO) -> dict[str, Any]:
    """Return the only line, decoded as strict UTF-8 JSON."""
    decoded = json.loads(one_line(stream).encode("utf-8"))
    assert isinstance(decoded, dict)
    return decoded


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
    line = one_object(stream)
    assert list(line)[:3] == ["ts", "level", "msg"]
    del line["ts"]
    assert line == {
        "level": "info",
        "msg": "polled",
        "logger": "collector",
        "runs": 3,
        "idle": False,
        "open": {"a": 1},
        "name": "Müller",
    }


@pytest.mark.parametrize("level", LEVELS)
def test_lines_below_the_level_are_left_out(level: str) -> None:
    """Each level shows itself and what is graver."""
    stream = start("json", level=level)
    log = get_logger("x")
    for write in (log.debug, log.info, log.warning, log.error):
        write("hello")
    shown = [json.loads(line)["level"] for line in stream.getvalue().splitlines()]
    assert shown == list(LEVELS)[list(LEVELS).index(level) :]


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


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
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
def test_a_line_is_one_line_whatever_a_field_holds(log_format: str, value: object) -> None:
    """Line breaks, control characters, half surrogates, loops, huge or broken values."""
    stream = start(log_format)
    get_logger("x").info("hello", value=value)
    line = one_line(stream)
    assert "value" in line
    assert SECRET not in line
    assert len(line) < 40_000
    if log_format == "json":
        assert json.loads(line)["msg"] == "hello"


def test_what_is_nested_too_deep_is_shown_as_text() -> None:
    """A value that holds itself ends after a few levels."""
    stream = start("json")
    get_logger("x").info("hello", value=endless())
    assert one_object(stream)["value"] == [[[[[["[[...]]"]]]]]]


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_a_nasty_message_and_field_name_stay_on_one_line(log_format: str) -> None:
    """The message too, and names that are not fit for logfmt."""
    stream = start(log_format)
    get_logger("x").info(NASTY, **{NASTY: 1, "a b": 2})
    assert ("a_b=2" if log_format == "logfmt" else '"a_b":2') in one_line(stream)


def test_text_survives_json_unchanged_but_for_half_surrogates() -> None:
    """Escapes are undone by the reader; half a surrogate pair has no valid form."""
    stream = start("json")
    get_logger("x").info("hello", value=NASTY)
    expected = re.sub("[\ud800-\udfff]", "\ufffd", NASTY)
    assert one_object(stream)["value"] == expected


def test_a_field_does_not_replace_the_first_three() -> None:
    """It gets an underscore."""
    stream = start("json")
    get_logger("x").info("hello", ts=1, level=2, msg=3)
    line = one_object(stream)
    assert (line["msg"], line["msg_"], line["ts_"]) == ("hello", 3, 1)


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_no_secret_is_in_a_line(log_format: str) -> None:
    """In the message, fields, names, nested values, exceptions, URLs and cut-off texts."""
    stream = start(log_format)
    log = get_logger("x")
    padded = "x" * 9_995 + SECRET
    try:
        fail(f"Bearer {SECRET}")
    except ValueError as error:
        log.exception(SECRET, error=error, **{SECRET: 1})
    log.warning("nested", value={"a": [SECRET, {SECRET: SECRET.encode()}]}, padded=padded)
    log.warning(
        "spelled", json=json.dumps(SECRET), url=str(httpx.URL("http://x", params={"k": SECRET}))
    )
    logging.getLogger("lib").error("key %s", SECRET)
    text = stream.getvalue()
    assert text.count("[redacted]") >= 9
    assert "not-a-" not in text
    assert "real" not in text


def test_the_longer_secret_is_redacted_whole() -> None:
    """One that begins with another leaves no end behind."""
    secrets = Secrets()
    for secret in ("abcd", "abcd-efgh", "", "c"):
        secrets.add(secret)
    assert secrets.redact("abcd-efgh abcd c") == "[redacted] [redacted] c"
    assert "abcd" not in repr(secrets)


def test_an_exception_is_a_field_with_its_traceback() -> None:
    """On the same line."""
    stream = start("json")
    try:
        fail(NASTY)
    except ValueError:
        get_logger("x").exception("broken")
    line = one_object(stream)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last):\n")


def test_lines_of_libraries_take_the_same_way_from_warning_on() -> None:
    """With their logger's name; arguments that don't fit cost nothing but themselves."""
    stream = start("json")
    library = logging.getLogger("some.library")
    library.info("not shown")
    library.warning("slow: %d\n", 3)
    library.error("broken %d", "x")
    try:
        fail("why")
    except ValueError:
        library.critical("failed", exc_info=True)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["level"], line["msg"], line["logger"]) for line in lines] == [
        ("warn", "slow: 3\n", "some.library"),
        ("error", "broken %d", "some.library"),
        ("error", "failed", "some.library"),
    ]
    assert lines[2]["exception"].endswith("ValueError: why")


def test_a_second_setup_replaces_the_first() -> None:
    """Each line is written once, by loggers that were made before too."""
    log = get_logger("x")
    first = start("json")
    second = start("logfmt", level="error")
    log.error("hello")
    logging.getLogger("lib").warning("below the level")
    logging.getLogger("lib").error("hello")
    assert first.getvalue() == ""
    assert second.getvalue().count("\n") == 2


def test_an_unknown_level_or_format_is_refused() -> None:
    """With what is expected."""
    with pytest.raises(ValueError, match="'loud' is not a log level: expected one of debug, info"):
        setup_logging("loud", "json", Secrets())
    with pytest.raises(ValueError, match="'xml' is not a log format: expected one of logfmt, json"):
        setup_logging("info", "xml", Secrets())


def test_stderr_is_the_stream_when_none_is_given(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The stderr of the moment, not of the import."""
    setup_logging("info", "logfmt", Secrets())
    get_logger("x").info("hello")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "msg=hello" in captured.err


def test_a_c_locale_gets_escapes() -> None:
    """It must not end the process, nor cost the line."""
    program = (
        "from invent_exporter.log import *; setup_logging('info', 'logfmt', Secrets());"
        "get_logger('x').info('Müller')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[1],
        env={"PYTHONIOENCODING": "ascii"},
        stderr=subprocess.PIPE,
        check=True,
        timeout=60,
    )
    assert b"msg=M\\xfcller" in done.stderr


def test_a_closed_or_broken_stream_costs_the_line_alone() -> None:
    """Nobody reads it, and there is no other place to tell it."""
    closed = io.StringIO()
    closed.close()
    setup_logging("info", "logfmt", Secrets(), closed)
    get_logger("x").info("hello")
    program = (
        "from invent_exporter.log import *; setup_logging('info', 'logfmt', Secrets());"
        "get_logger('x').info('hello'); print('alive')"
    )
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            stderr=full,
            check=False,
            timeout=60,
        )
    assert done.stdout == b"alive\n"


def test_lines_of_many_threads_do_not_mix() -> None:
    """Each is written whole."""
    stream = start("json")

    def write() -> None:
        for number in range(100):
            get_logger("x").info("hello", number=number)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert sorted(line["number"] for line in lines) == sorted([*range(100)] * 4)
