"""From bytes to runs: what is read, what is left out, and what spoils a page."""

from __future__ import annotations

import json
import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from invent_exporter.api import cutting
from invent_exporter.api.decoding import (
    MAX_ROWS,
    PAGE_AT_ONCE_BYTES,
    decode_page,
    identity_in,
)
from invent_exporter.api.models import MAX_ERROR_CHARACTERS
from invent_exporter.errors import ApiError, SpoiledPageError
from tests.test_fuzz import any_json

EXAMPLE = Path(__file__).parent / "get-runs.example.json"

LATEST = datetime(2026, 11, 26, tzinfo=UTC).timestamp()
ERROR_AS_TEXT = '{"code":4.5,"why":["a",null,true]}'
TIMES = ("created_at", "started_at", "ended_at", "updated_at")

GOOD: dict[str, object] = {
    "id": "run-1",
    "status": "COMPLETED",
    "origin": "TRIGGER",
    "created_at": "2026-11-24T10:00:00Z",
    "started_at": "2026-11-24T10:00:01.5Z",
    "ended_at": "2026-11-24T10:00:03.5+00:00",
    "updated_at": "2026-11-24T10:00:04Z",
    "org_id": "org-1",
    "workflow_org_id": "org-1",
    "workflow_id": "workflow-1",
    "workflow_version_draft": None,
    "workflow_version": {"id": "v", "version": 3, "steps": [{"input": {"a": [1, 2]}}]},
    "result": {"big": ["x"] * 10},
    "outputs": {},
    "error": "it broke",
    "version": 3,
    "usage": {"total": 2.5, "ai_total": 1, "steps": {"a": 1, "b": {"total": 1.5}}, "calls": []},
}
ODD_FIELDS = [name for name in GOOD if name not in ("id", "status")]


def page_of(*rows: object) -> bytes:
    """Write rows as a page."""
    return json.dumps(rows).encode()


def raw_run(extra: bytes) -> bytes:
    """Write a page of one run with something that `json` would not write."""
    return b'[{"id":"run-1","status":"FAILED",' + extra + b"}]"


def test_the_documentations_own_example_is_read() -> None:
    """The example answer of the endpoint's documentation parses."""
    page = decode_page(EXAMPLE.read_bytes())
    assert (len(page.runs), page.invalid, page.rows) == (1, [], 1)
    run = page.runs[0]
    assert (run.id, run.status, run.origin) == ("<string>", "RUNNING", "WORKFLOW")
    assert run.created_at == datetime(2023, 11, 7, 5, 31, 56, tzinfo=UTC)
    assert run.credits == (123.0, 0.0)
    assert run.version_label == "123"


def test_every_used_field_is_read() -> None:
    """A run keeps what the API said of it."""
    run = decode_page(page_of(GOOD)).runs[0]
    assert (run.id, run.status, run.origin) == ("run-1", "COMPLETED", "TRIGGER")
    assert (run.org_id, run.workflow_org_id, run.workflow_id) == ("org-1", "org-1", "workflow-1")
    assert (run.duration_seconds, run.queue_seconds) == (2.0, 1.5)
    assert (run.credits, run.step_credits) == ((1.0, 1.5), {"a": 1.0, "b": 1.5})
    assert (run.error, run.version_label) == ("it broke", "3")


@pytest.mark.parametrize("name", ODD_FIELDS)
def test_a_field_that_is_null_or_missing_is_no_reason_to_leave_a_run_out(name: str) -> None:
    """Only id and status are needed; nothing is unreadable that is not there."""
    missing = {key: value for key, value in GOOD.items() if key != name}
    page = decode_page(page_of(GOOD | {name: None}, missing))
    assert [run.id for run in page.runs] == ["run-1", "run-1"]
    assert [(getattr(run, name, None), run.unreadable) for run in page.runs] == [(None, {})] * 2


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("origin", []),
        ("origin", True),
        ("org_id", {}),
        ("workflow_org_id", "o" * 257),
        ("workflow_id", "w" * 257),
        ("workflow_id", "\u20ac" * 86),
        ("created_at", "yesterday"),
        ("created_at", 1e18),
        ("created_at", "0001-01-01T00:00:00Z"),
        ("started_at", True),
        ("started_at", 0),
        ("ended_at", {}),
        ("ended_at", "9999-12-31T23:59:59Z"),
        ("updated_at", "2026-11-24"),
        ("updated_at", ""),
        ("updated_at", "9999-12-31T23:59:59Z"),
        ("usage", []),
        ("usage", "free"),
        ("usage", {"total": "much"}),
        ("usage", {"total": ""}),
        ("usage", {"ai_total": True}),
        ("usage", {"total": 1, "steps": {f"step-{number}": number for number in range(4000)}}),
        ("usage", {"total": "nan"}),
        ("usage", {"total": 1e300}),
        ("usage", {"ai_total": "-inf"}),
        ("workflow_version", "v3"),
        ("workflow_version", [3]),
        ("version", {}),
    ],
)
def test_a_field_that_can_not_be_read_is_unknown_and_named(name: str, value: object) -> None:
    """The run is read with what is known of it, and so are the runs around it."""
    before, after = GOOD | {"id": "before"}, GOOD | {"id": "after"}
    page = decode_page(page_of(before, GOOD | {name: value}, after), LATEST)
    assert ([run.id for run in page.runs], page.invalid) == (["before", "run-1", "after"], [])
    odd = page.runs[1]
    assert list(odd.unreadable) == [name]
    readings = ("created", "started", "updated", "origin", "workflow_id", "org_id", "version_label")
    sound = page.runs[0]
    same = [each for each in readings if getattr(odd, each) == getattr(sound, each)]
    assert len(same) >= len(readings) - 1
    assert [run.unreadable for run in (sound, page.runs[2])] == [{}, {}]


@pytest.mark.parametrize(
    ("name", "value", "reading", "expected"),
    [
        ("id", 4711, "id", "4711"),
        ("id", 17.5, "id", "17.5"),
        ("workflow_id", 17, "workflow_label", "17"),
        ("version", "v1.10", "version_label", "v1.10"),
        ("version", "1.10", "version_label", "1.10"),
        ("version", 3.0, "version_label", "3"),
        ("status", "Completed", "status_label", "COMPLETED"),
        ("status", 7, "status_label", "UNKNOWN"),
        ("status", "PAUSED", "status_label", "UNKNOWN"),
        ("origin", "EMAIL", "origin_label", "UNKNOWN"),
        ("new_field", [1], "id", "run-1"),
        ("origin", "trigger", "origin_label", "TRIGGER"),
        ("error", {"code": 4.50, "why": ["a", None, True]}, "error", ERROR_AS_TEXT),
        ("error", ["no"], "error", '["no"]'),
        ("error", 5, "error", "5"),
        ("usage", {"total": "2.5", "ai_total": "1"}, "credits", (1.0, 1.5)),
        ("usage", {"steps": {"a": "1.5"}}, "step_credits", {"a": 1.5}),
        ("version", "7", "version_label", "7"),
        ("id", "a\x00b", "id", r"a\x00b"),
        ("id", "a\\x00b", "id", r"a\\x00b"),
        ("id", "a\ud800b", "id", r"a\ud800b"),
        ("error", "cut \ud83d", "error", "cut \N{REPLACEMENT CHARACTER}"),
    ],
)
def test_what_has_another_type_is_read_where_its_meaning_is_plain(
    name: str, value: object, reading: str, expected: object
) -> None:
    """Digits as text, numeric text as a number, any letters' case; nothing is unreadable then."""
    (run,) = decode_page(page_of(GOOD | {name: value}), LATEST).runs
    assert (getattr(run, reading), run.unreadable) == (expected, {})


def test_ids_that_are_no_utf_8_stay_apart() -> None:
    """Each is a run of its own, as one with the replacement character is."""
    ids = [b"r\xff", b"r\xfe", "r\N{REPLACEMENT CHARACTER}".encode()]
    rows = [
        raw_run(b'"created_at":"2026-11-24T10:00:00Z"')[1:-1].replace(b"run-1", each)
        for each in ids
    ]
    page = decode_page(b"[" + b",".join(rows) + b"]", LATEST)
    assert [run.id for run in page.runs] == [r"r\udcff", r"r\udcfe", "r\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("escapes", [True, False], ids=["escaped", "as it is"])
@pytest.mark.parametrize(
    "size_bytes", [0, PAGE_AT_ONCE_BYTES // 2, PAGE_AT_ONCE_BYTES], ids=["small", "large", "huge"]
)
def test_what_no_label_carries_is_escaped_wherever_it_stands(
    size_bytes: int, *, escapes: bool
) -> None:
    """Pages of different sizes are looked through in different ways."""
    ids = ["a\x7fb", "a\x85b", "a\\b", "\u20ac"]
    rows = [GOOD | {"id": run_id, "result": "x" * (size_bytes // 4)} for run_id in ids]
    page = decode_page(json.dumps(rows, ensure_ascii=escapes).encode(), LATEST)
    assert [run.id for run in page.runs] == [r"a\x7fb", r"a\x85b", r"a\\b", "\u20ac"]


def test_a_clean_page_is_decoded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second look at each row costs four times as much as all the rest."""
    monkeypatch.delattr("invent_exporter.api.decoding._RUN")
    assert decode_page(page_of(*[GOOD] * 100), LATEST).rows == 100


def test_digits_are_text_as_they_are_written() -> None:
    """17.50 is not 17.5 where text is expected."""
    (run,) = decode_page(raw_run(b'"workflow_id":17.50,"version":1e3')).runs
    assert (run.workflow_label, run.version_label) == ("17.50", "1000")


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-24T10:00:03.5Z",
        "2026-11-24T10:00:03.5+00:00",
        "2026-11-24t12:00:03.5+02",
        "2026-11-24T12:00:03.5+0200",
        "2026-11-24T04:30:03.500-05:30",
        "2026-11-24 10:00:03,5",
        "2026-11-24 10:00:03.5 UTC",
        " 2026-11-24T10:00:03.500000000Z",
        "20261124T100003.5Z",
        1795514403.5,
        "1795514403.5",
        1795514403500,
        "1795514403500",
    ],
)
def test_times_are_read_leniently(text: object) -> None:
    """Any ISO 8601 with a time of day, and a number of seconds or milliseconds."""
    (run,) = decode_page(page_of(GOOD | {"ended_at": text, "origin": "x"}), LATEST).runs
    assert (run.ended, run.unreadable) == (1795514403.5, {})


@pytest.mark.parametrize("text", ["2026-11-24T10:00:60Z", "2026-11-24T10:01Z"])
def test_a_leap_second_is_the_second_after(text: str) -> None:
    """And minutes may be all that is told."""
    (run,) = decode_page(page_of(GOOD | {"ended_at": text}), LATEST).runs
    assert run.ended == 1795514460.0


@given(
    st.datetimes(datetime(2000, 1, 1), datetime(2026, 11, 24)),  # noqa: DTZ001
    st.sampled_from(["Z", "+00:00", "+05:30", "-11:45"]),
)
def test_both_readings_of_a_time_agree(moment: datetime, offset: str) -> None:
    """Whether a neighbouring field is odd must not change what a run says."""
    row = GOOD | {"ended_at": f"{moment.isoformat()}{offset}"}
    fast, loose = (
        decode_page(page_of(each), LATEST).runs[0] for each in (row, row | {"origin": 1})
    )
    assert fast.ended == loose.ended


@given(st.dictionaries(st.sampled_from(ODD_FIELDS), any_json), st.sampled_from(TIMES))
def test_id_status_and_one_time_make_a_run(odd: dict[str, object], sound_time: str) -> None:
    """For any JSON in any other field the run is read, and costs no other run."""
    row = {**GOOD, **odd, sound_time: GOOD[sound_time]}
    for text in (json.dumps([row, GOOD]), json.dumps([row, GOOD], ensure_ascii=False)):
        page = decode_page(text.encode("utf-8", "surrogatepass"), LATEST)
        assert [run.id for run in page.runs] == ["run-1", "run-1"]
        run, sound = page.runs
        assert (run.status_label, run.told_time is not None) == ("COMPLETED", True)
        assert sound == decode_page(page_of(GOOD)).runs[0]
        assert all(isinstance(total, float) for total in run.step_credits.values())
        assert run.credits is None or min(run.credits) >= 0


@pytest.mark.parametrize(
    "line", (Path(__file__).parent / "odd-runs.jsonl").read_text().splitlines()
)
def test_odd_runs_as_apis_write_them(line: str) -> None:
    """Each kind was met in public; `expect` says what is right."""
    odd = json.loads(line)
    page = decode_page(
        b"[" + odd["json"].encode("utf-8", "surrogatepass") + b"," + page_of(GOOD)[1:], LATEST
    )
    assert page.runs[-1].id == "run-1", "it cost its neighbour"
    if odd["expect"].startswith("invalid"):
        assert [bad.reason for bad in page.invalid] == [odd["expect"].split()[2].strip(":;")]
        return
    (run, _) = page.runs
    assert run.is_final == odd["expect"].startswith("counts")
    for words, holds in (
        ("UNKNOWN", "UNKNOWN" in (run.status_label, run.origin_label)),
        ("without credits", run.credits is None),
        ("2.5 credits", run.credits_total == 2.5),
        ("no duration", run.duration_seconds is None),
        ("queue time unknown", run.queue_seconds is None),
        ("the end is unknown", run.ended_at is None),
        ("__none__", run.workflow_label == "__none__" and list(run.unreadable) == ["workflow_id"]),
        ("U+FFFD", "\N{REPLACEMENT CHARACTER}" in (run.error or "")),
        ('run "4711"', run.id == "4711"),
        ('workflow "17"', run.workflow_label == "17"),
    ):
        assert words not in odd["expect"] or holds, words


WITHOUT_ID, WITHOUT_STATUS = (
    {key: value for key, value in GOOD.items() if key != name} for name in ("id", "status")
)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        *((WITHOUT_ID, "id"), (WITHOUT_STATUS, "status"), (None, "row"), (5, "row")),
        *(("run", "row"), ([], "row"), (True, "row")),
    ],
)
def test_what_is_no_run_is_left_out(row: object, reason: str) -> None:
    """Without an id or a status there is nothing to count; the rest of the page is read."""
    page = decode_page(page_of(row, GOOD))
    assert [run.id for run in page.runs] == ["run-1"]
    assert [bad.reason for bad in page.invalid] == [reason]


@pytest.mark.parametrize(
    "field",
    [
        b'"outputs":"\\ud800"',
        b'"outputs":"\\udc00"',
        b'"outputs":"\\x41"',
        b'"outputs":"\x01"',
        b'"outputs":"\xff"',
        b'"outputs":NaN,"result":-Infinity',
        b'"outputs":' + b"9" * 5000,
        b'"outputs":' + b"[" * 300_000 + b"]" * 300_000,
        b'"error":"\xff"',
        b'"workflow_id":"\xff"',
        b'"usage":{"total":1e999}',
        b'"usage":{"total":NaN}',
        b'"usage":' + b"[" * 10_000 + b"]" * 10_000,
    ],
    ids=lambda field: field[:20].decode("utf-8", "replace"),
)
def test_broken_bytes_cost_no_more_than_their_field(field: bytes) -> None:
    """Text cut within an emoji, no strict JSON, nesting without end: both runs are read."""
    page = decode_page(page_of(GOOD)[:-1] + b"," + raw_run(field)[1:], LATEST)
    assert ([run.status for run in page.runs], page.invalid) == (["COMPLETED", "FAILED"], [])
    odd = ["usage"] if field.startswith(b'"usage"') else []
    assert [list(run.unreadable) for run in page.runs] == [[], odd]


@pytest.mark.parametrize("depth", [300, 450, 700, 985, 5000])
@pytest.mark.parametrize("name", ["error", "origin", "usage"])
def test_a_field_that_is_nested_deep_costs_no_more_than_the_field(name: str, depth: int) -> None:
    """To write it for people takes more of the stack than to read it."""
    field = f'"{name}":'.encode() + b'{"a":' * depth + b"1" + b"}" * depth
    run = decode_page(raw_run(field)).runs[0]
    assert run.error if name == "error" else name in run.unreadable or run.usage


@pytest.mark.parametrize(
    "row",
    [
        b'"started_at":"2026-11-24T10:00:00' + b" " * 1_000_000 + b'x"',
        b'"outputs":{"a":' + b" " * 1_000_000 + b"!}",
    ],
    ids=["behind a time", "before no value"],
)
def test_blanks_without_end_are_passed_over_once(row: bytes) -> None:
    """A pattern that tried each way to share them out would not come back today."""
    with suppress(SpoiledPageError):
        assert decode_page(raw_run(row)).runs[0].started_at is None


LARGE = PAGE_AT_ONCE_BYTES + 2**20
HOSTILE = {
    "rows": b"[%b{}]" % (b"{}," * (LARGE // 3)),
    "rows that are no strict JSON": b"[%b{},NaN]" % (b"{}," * (LARGE // 3)),
    "outputs": raw_run(b'"origin":1,"outputs":[%b1]' % (b"1," * (LARGE // 2))),
    "outputs, no strict JSON": raw_run(b'"outputs":[NaN,%b1]' % (b"1," * (LARGE // 2))),
    "error, no strict JSON": raw_run(b'"error":[NaN,%b1]' % (b"1," * (LARGE // 2))),
    "error": raw_run('"error":"\N{GRINNING FACE}%b"'.encode() % (b"x" * LARGE)),
    "fields": raw_run(b'"a":NaN%b' % (b',"%b":1' % (b"b" * 300) * (LARGE // 300))),
    "usage": raw_run(
        b'"usage":{"total":1,"steps":{%b}}'
        % b",".join(b'"%d":1' % number for number in range(LARGE // 10))
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_nothing_is_built_of_a_large_answer_but_what_is_read(what: str) -> None:
    """The run in it counts with what is known: a long error by its beginning, credits in sum."""
    body = HOSTILE[what]
    tracemalloc.start()
    try:
        page = decode_page(body)
        assert tracemalloc.get_traced_memory()[1] < len(body) // 4
    finally:
        tracemalloc.stop()
    if "rows" in what:
        assert page.rows == MAX_ROWS + 1
        return
    (run,) = page.runs
    assert list(run.unreadable) == (["usage"] if what == "usage" else [])
    assert (run.credits_total, run.step_credits) == (1.0 if what == "usage" else None, {})
    assert len(run.error or "") == (MAX_ERROR_CHARACTERS if "error" in what else 0)


@pytest.mark.parametrize("origin", ["TRIGGER", "new"])
def test_a_step_is_the_same_one_in_a_plain_run_and_in_an_odd_one(origin: str) -> None:
    """Else its credits would count twice when a run is read both ways; a long name is none."""
    steps = {"b\\c": 1, "a\0": 2, "": 3, "x" * 257: 4}
    run = decode_page(page_of(GOOD | {"origin": origin, "usage": {"steps": steps}})).runs[0]
    assert run.step_credits == {"b\\c": 1.0, "a\0": 2.0}


def test_broken_bytes_in_a_step_of_the_usage_spoil_only_that_step() -> None:
    """Steps are read late; they must not fail where nobody expects it."""
    run = decode_page(raw_run(b'"usage":{"total":1,"steps":{"a":"\xff","b":1}}')).runs[0]
    assert (run.step_credits, run.credits) == ({"b": 1.0}, (0.0, 1.0))


@pytest.mark.parametrize("field", [b'"outputs":[1', b'"outputs":"', b'"outputs":1 2'])
def test_what_can_not_be_taken_apart_spoils_the_page(field: bytes) -> None:
    """Somebody else then finds the run with smaller pages."""
    with pytest.raises(SpoiledPageError):
        decode_page(page_of(GOOD)[:-1] + b"," + raw_run(field)[1:])


short_texts = st.text(max_size=8)


@given(st.lists(any_json, max_size=5), st.dictionaries(short_texts, any_json, max_size=5))
def test_json_is_taken_apart_where_its_values_begin_and_end(
    rows: list[object], row: dict[str, object]
) -> None:
    """As the standard library reads them, however they are nested."""
    pieces = cutting.items(json.dumps(rows, indent=1).encode())
    assert repr([json.loads(bytes(piece)) for piece in pieces]) == repr(rows)
    members = cutting.members(json.dumps(row).encode())
    read = {json.loads(name): json.loads(bytes(value)) for name, value in members}
    assert repr(read) == repr(row)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"<!doctype html><title>Login</title>", "HTML"),
        (b'{"message": "no"}', "object"),
        (b"null", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (page_of(GOOD)[:-1], "cut off"),
        (page_of(GOOD, GOOD)[:-200], "cut off"),
        (b"[maintenance]", "malformed"),
        (b"[", "cut off"),
    ],
)
def test_what_is_no_page_is_one_clear_error(body: bytes, words: str) -> None:
    """No run is made of it."""
    with pytest.raises(ApiError, match=words) as caught:
        decode_page(body)
    assert caught.value.reason == "invalid_response"


def test_runs_without_an_id_are_told_apart_by_their_content() -> None:
    """The same content has the same digest at each poll."""
    one, other = GOOD | {"id": None}, GOOD | {"id": None, "version": 4}
    digests = [bad.digest for bad in decode_page(page_of(one, other, one)).invalid]
    assert digests[0] == digests[2] != digests[1]


@pytest.mark.parametrize(
    ("body", "run_id"),
    [
        (rb'[{"id":"run-1","outputs":"\ud800"}]', "run-1"),
        (b'[{"id":"run-1","outputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}]", "run-1"),
        (b'[{"id":"run-1","outputs":"' + b"x" * 100_000, "run-1"),
        (rb'[{"x":{"id":"no"},"error":"\"id\":\"no\"","origin":"id", "id" : "run-1"', "run-1"),
        (b'[{"id":7}]', "7"),
        *((body, None) for body in (b"", b"[", b"[1]", b"[{}]", b'[{"id":null,"x":"')),
        *((body, None) for body in (b'[{"id":"cut', b'[{"id":"cut\\')),
        (b'[{"x":{"id":"other"}},{"id":"second"}]', None),
        (b'[{"result":"' + rb"\"" * 40_000, None),
    ],
    ids=lambda each: str(each)[:30],
)
def test_the_id_is_found_in_a_run_that_can_not_be_decoded(body: bytes, run_id: str | None) -> None:
    """Such a run is one, however its content changes; without an id its content tells it apart."""
    assert identity_in(body) == run_id


def test_a_run_does_not_keep_its_page_in_memory() -> None:
    """A bytearray that something points into can't be resized: so nothing does."""
    body = bytearray(page_of(GOOD, GOOD | {"id": None}))
    page = decode_page(body)
    body += b" " * 1000
    assert page.runs[0].step_credits == {"a": 1.0, "b": 1.5}


def test_an_empty_array_is_an_empty_page() -> None:
    """Nothing is wrong with an org without runs; some write a mark of their encoding before it."""
    for mark in (b"", b"\xef\xbb\xbf"):
        assert decode_page(mark + b" [ ] ").rows == 0
        assert decode_page(mark + page_of(GOOD)).rows == 1
