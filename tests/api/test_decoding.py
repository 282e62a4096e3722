"""From bytes to runs: what is read, what is left out, and what spoils a page."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from invent_exporter.api.decoding import decode_page, identity_in
from invent_exporter.api.models import INVALID_REASONS
from invent_exporter.errors import ApiError, SpoiledPageError

EXAMPLE = Path(__file__).parent / "get-runs.example.json"

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
NULLABLE = (
    "created_at",
    "started_at",
    "ended_at",
    "updated_at",
    "org_id",
    "workflow_org_id",
    "workflow_id",
    "workflow_version_draft",
    "workflow_version",
)
OPTIONAL = ("error", "version", "usage")


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


@pytest.mark.parametrize("name", [*NULLABLE, *OPTIONAL])
def test_null_is_read_where_the_api_may_send_it(name: str) -> None:
    """A null is no reason to leave a run out."""
    page = decode_page(page_of(GOOD | {name: None}))
    assert [run.id for run in page.runs] == ["run-1"]
    assert getattr(page.runs[0], name, None) is None


@pytest.mark.parametrize("name", [*NULLABLE, *OPTIONAL, "origin", "result", "outputs"])
def test_a_field_that_is_missing_is_no_reason_to_leave_a_run_out(name: str) -> None:
    """Only id and status are needed."""
    page = decode_page(page_of({key: value for key, value in GOOD.items() if key != name}))
    assert [run.id for run in page.runs] == ["run-1"]


def test_numbers_as_strings_are_read() -> None:
    """A service that writes numbers as strings is understood."""
    usage = {"total": "2.5", "ai_total": "1", "steps": {"a": "1.5"}}
    run = decode_page(page_of(GOOD | {"usage": usage, "version": "7"})).runs[0]
    assert (run.credits, run.version_label, run.step_credits) == ((1.0, 1.5), "7", {"a": 1.5})


def test_unknown_enums_and_unknown_fields_are_read() -> None:
    """Enums may grow; the run stays readable."""
    row = GOOD | {"status": "PAUSED", "origin": "EMAIL", "new_field": [1]}
    run = decode_page(page_of(row)).runs[0]
    assert (run.status, run.status_label, run.origin_label) == ("PAUSED", "UNKNOWN", "UNKNOWN")


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("id", 5, "id"),
        ("id", None, "id"),
        ("id", "", "id"),
        ("status", 5, "status"),
        ("status", None, "status"),
        ("origin", [], "origin"),
        ("org_id", 5, "org_id"),
        ("workflow_org_id", {}, "org_id"),
        ("workflow_id", 5, "workflow_id"),
        ("created_at", "yesterday", "time"),
        ("started_at", True, "time"),
        ("ended_at", {}, "time"),
        ("updated_at", "2026-11-24", "time"),
        ("created_at", 1e18, "time"),
        ("usage", [], "usage"),
        ("usage", {"total": "much"}, "usage"),
        ("usage", {"ai_total": True}, "usage"),
        ("usage", {"total": "nan"}, "usage"),
        ("usage", {"ai_total": "-inf"}, "usage"),
        ("workflow_version", "v3", "other"),
        ("version", {}, "other"),
        ("error", {"message": "no"}, "other"),
    ],
)
def test_a_field_of_the_wrong_type_leaves_out_that_run_alone(
    name: str, value: object, reason: str
) -> None:
    """The reason names the field; the runs around it are read."""
    before, after = GOOD | {"id": "before"}, GOOD | {"id": "after"}
    page = decode_page(page_of(before, GOOD | {name: value}, after))
    assert [run.id for run in page.runs] == ["before", "after"]
    assert page.rows == 3
    assert [(bad.run_id, bad.reason) for bad in page.invalid] == [
        (None if name == "id" else "run-1", reason)
    ]
    assert reason in INVALID_REASONS


@pytest.mark.parametrize("first", [b"null", b"7", b"-1.5e3 , true"])
def test_a_row_that_is_no_object_does_not_hide_that_another_spoils_the_page(first: bytes) -> None:
    """Two bad rows at once: the page is still one to be taken apart, not a failed poll."""
    with pytest.raises(SpoiledPageError):
        decode_page(b"[" + first + b', {"id":"r","status":"FAILED","result":"\\ud800"}]')


@pytest.mark.parametrize("name", ["id", "status"])
def test_a_run_without_a_needed_field_is_left_out(name: str) -> None:
    """Without an id or a status there is nothing to count."""
    page = decode_page(page_of({key: value for key, value in GOOD.items() if key != name}))
    assert [bad.reason for bad in page.invalid] == [name]


@pytest.mark.parametrize("row", [None, 5, "run", [], True])
def test_a_row_that_is_no_object_is_left_out(row: object) -> None:
    """The rest of the page is read."""
    page = decode_page(page_of(row, GOOD))
    assert [run.id for run in page.runs] == ["run-1"]
    assert [bad.reason for bad in page.invalid] == ["not_an_object"]


def test_a_number_beyond_all_bounds_is_invalid_usage() -> None:
    """1e999 is JSON, but no number of credits."""
    page = decode_page(raw_run(b'"usage":{"total":1e999}'))
    assert [bad.reason for bad in page.invalid] == ["usage"]


@pytest.mark.parametrize("field", [b'"error":"\xff"', b'"workflow_id":"\xff"'])
def test_broken_utf8_in_a_field_that_is_read_leaves_out_that_run_alone(field: bytes) -> None:
    """The page can still be taken apart, so no smaller page is needed."""
    page = decode_page(raw_run(field)[:-1] + b"," + page_of(GOOD)[1:])
    assert [run.id for run in page.runs] == ["run-1"]
    assert [(bad.run_id, bad.reason) for bad in page.invalid] == [("run-1", "undecodable")]


def test_broken_bytes_in_a_step_of_the_usage_spoil_only_that_step() -> None:
    """Steps are read late; they must not fail where nobody expects it."""
    for steps in (b'{"\xff":1}', b'{"a":"\xff"}'):
        run = decode_page(raw_run(b'"usage":{"total":1,"steps":' + steps + b"}")).runs[0]
        assert (run.step_credits, run.credits) == ({}, (0.0, 1.0))


@pytest.mark.parametrize(
    "field",
    [
        b'"outputs":"\\ud800"',
        b'"outputs":"\\udc00"',
        b'"outputs":' + b"[" * 10_000 + b"]" * 10_000,
        b'"usage":{"steps":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
        b'"outputs":NaN',
        b'"outputs":"\x01"',
        b'"outputs":[1',
    ],
    ids=["high surrogate", "low surrogate", "nested", "nested usage", "NaN", "control", "open"],
)
def test_what_can_not_be_taken_apart_spoils_the_page(field: bytes) -> None:
    """Somebody else then finds the run with smaller pages."""
    with pytest.raises(SpoiledPageError):
        decode_page(page_of(GOOD)[:-1] + b"," + raw_run(field)[1:])


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
    "body",
    [
        rb'[{"id":"run-1","outputs":"\ud800"}]',
        b'[{"id":"run-1","outputs":' + b"[" * 10_000 + b"]" * 10_000 + b"}]",
        b'[{"id":"run-1","outputs":"' + b"x" * 100_000,
        rb'[{"result":{"id":"other"},"error":"\"id\":\"no\"","origin":"id", "id" : "run-1"',
    ],
    ids=["surrogate", "nesting", "cut off", "behind other fields"],
)
def test_the_id_is_found_in_a_run_that_can_not_be_decoded(body: bytes) -> None:
    """Such a run is one run, however its content changes from poll to poll."""
    assert identity_in(body) == "run-1"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"[1]",
        b"[{}]",
        b'[{"id":7}]',
        b'[{"id":null,"x":"',
        rb'[{"id":"\ud800"}]',
        b'[{"id":"cut',
        b'[{"id":"cut\\',
        b'[{"x":{"id":"other"}},{"id":"second"}]',
        b'[{"result":"' + rb"\"" * 40_000,
    ],
)
def test_no_id_is_made_up_where_none_can_be_read(body: bytes) -> None:
    """Then the run is known by its content."""
    assert identity_in(body) is None


def test_a_run_that_is_listed_twice_stays_twice() -> None:
    """Counting once is the ledger's business."""
    assert [run.id for run in decode_page(page_of(GOOD, GOOD)).runs] == ["run-1", "run-1"]


def test_a_run_does_not_keep_its_page_in_memory() -> None:
    """A bytearray that something points into can't be resized: so nothing does."""
    body = bytearray(page_of(GOOD, GOOD | {"id": None}))
    page = decode_page(body)
    body += b" " * 1000
    assert page.runs[0].step_credits == {"a": 1.0, "b": 1.5}


def test_an_empty_array_is_an_empty_page() -> None:
    """Nothing is wrong with an org without runs."""
    assert decode_page(b" [ ] ").rows == 0
