"""Whatever bytes come, a page ends in runs or one typed error, a configuration file in one line.

What a listing does with pages that can't be read is in test_listing, endless bodies are in
test_transport, requests to the server in test_server, label values in test_families.
"""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from invent_exporter.config.load import Config, load_config
from invent_exporter.errors import ConfigError
from tests import fuzz
from tests.fuzz import CORPUS, decode, targets

SECRET = "sk-hidden-0123456789"

any_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(
        ["", "1", "nan", "inf", "-1e400", "2026-11-24T00:00:00Z", "9999-12-31", "FAILED"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
FIELDS = (
    *("id", "status", "origin", "created_at", "started_at", "ended_at", "updated_at", "org_id"),
    *("workflow_org_id", "workflow_id", "workflow_version", "version", "error", "usage", "outputs"),
)
runs = st.dictionaries(st.sampled_from(FIELDS), any_json)
usages = st.fixed_dictionaries(
    {}, optional={"total": any_json, "ai_total": any_json, "steps": any_json, "calls": any_json}
)


def test_what_was_found_once_ends_in_what_is_allowed() -> None:
    """Each body of the corpus, by what takes it."""
    with targets() as takers:
        assert {folder.name for folder in CORPUS.iterdir()} == takers.keys()
        for name, take in takers.items():
            for body in fuzz.kept(CORPUS, name):
                take(body)


def test_what_fuzzing_finds_is_kept(tmp_path: Path) -> None:
    """The bytes go into the corpus, to be tried again."""
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "good").write_bytes(b"[]")

    def refuse(body: bytes) -> None:
        assert b"NaN" not in body, "seen"

    _, found = fuzz.fuzz({"pages": refuse}, tmp_path, Random(5), 60.0)
    assert found is not None
    assert b"NaN" in found.path.read_bytes()
    assert "seen" in found.failure
    assert found.path in (tmp_path / "pages").iterdir()


@given(st.binary(max_size=300))
@example(b"")
@example(b"[")
@example(b"[[[[")
@example(b'[{"id":"a","id":"b","status":"FAILED","status":1}]')
@example(b'[{"id":"\\ud800","status":"FAILED"}]')
@example(b'[{"id":"a","status":"FAILED","outputs":"\\ud83d"}]')
@example(b'[{"id":"\xff\xfe","status":"FAILED"}]')
@example(b'[{"id":"a","status":"FAILED","usage":{"total":1e999}}]')
@example(b'[{"id":"a","status":"FAILED","created_at":"9999-12-31T23:59:60.999999999Z"}]')
@example(b'[{"id":"a","status":"FAILED","created_at":-99999999999999}]')
def test_no_bytes_end_in_anything_but_runs_or_a_typed_error(body: bytes) -> None:
    """A proxy's page, half an answer, noise."""
    decode(body)
    decode(b"[" + body + b"]")
    decode(b'[{"id":"a","status":"FAILED","outputs":' + body + b"}]")


@given(st.lists(runs, max_size=4), st.lists(usages, max_size=2))
def test_no_json_ends_in_anything_but_runs_or_a_typed_error(
    rows: list[dict[str, Any]], used: list[dict[str, Any]]
) -> None:
    """Each field may be anything, `NaN` and `Infinity` among it."""
    sound = [{"id": "a", "status": "FAILED", "usage": usage} for usage in used]
    decode(json.dumps([*rows, *sound]).encode("utf-8", "surrogatepass"))
    decode(json.dumps([*rows, *sound], ensure_ascii=False).encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=3), st.integers(0, 10_000))
def test_a_page_with_a_few_other_bytes_in_it_is_still_no_trouble(noise: bytes, at: int) -> None:
    """Bytes that were lost or changed on the way, anywhere."""
    page = (Path(__file__).parent / "api" / "get-runs.example.json").read_bytes()
    at %= len(page)
    decode(page[:at] + noise + page[at:])
    decode(page[:at] + noise + page[at + len(noise) :])
    decode(page[:at])


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"id":'])
def test_deep_nesting_takes_no_memory_to_speak_of(opening: bytes) -> None:
    """10,000 levels where anything may stand: no crash, and no tree of objects."""
    deep = opening * 10_000
    bodies = [deep, b'[{"id":"a","status":"FAILED","outputs":' + deep + b"}]"]
    tracemalloc.start()
    for body in bodies:
        decode(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10 * len(deep)


yaml_pieces = st.sampled_from(
    [
        *("api:", "  key:", "  url:", "orgs:", "  - id:", "poll_interval:", "metrics:"),
        *("  duration_buckets:", "workflow_names:", "links:", "  run:", "state:", "\n", "\n", " "),
        *(
            "30s",
            "c",
            "[1, 2]",
            "{",
            "}",
            "[",
            "]",
            "- ",
            "? ",
            ": ",
            "&a",
            "*a",
            "!!python/name:os",
        ),
        *("<<:", "'", '"', "#", "|", ">", "\t", "%YAML 1.1", "---", "...", "0x1F", "1:30", ".inf"),
        *("~", "null", "yes", "\u2028", "\ufeff", "{run_id}", "https://x", SECRET),
    ]
)


def load(folder: Path, content: bytes) -> None:
    """Read a file as the configuration."""
    path = folder / "config.yaml"
    path.write_bytes(content)
    try:
        config = load_config(path, {"INVENT_API_KEY": SECRET})
    except ConfigError as error:
        message = str(error)
        assert message.isprintable()
        assert message.startswith(str(path))
        assert SECRET not in message or SECRET.encode() not in content
    else:
        assert isinstance(config, Config)
        assert SECRET not in repr(config) or SECRET.encode() in content


@given(content=st.binary(max_size=200))
def test_no_bytes_as_configuration_end_in_anything_but_one_line(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    """The wrong file, half a file, another encoding."""
    load(tmp_path_factory.getbasetemp(), content)


@given(pieces=st.lists(yaml_pieces, max_size=25))
def test_no_yaml_as_configuration_ends_in_anything_but_one_line(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[str]
) -> None:
    """Keys, values and everything that YAML has, in any order."""
    load(tmp_path_factory.getbasetemp(), "".join(pieces).encode("utf-8"))
