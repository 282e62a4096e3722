"""What a configuration file, the environment and key files become, and how mistakes are told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from invent_exporter.config import state
from invent_exporter.config.load import (
    ApiConfig,
    Config,
    Key,
    MetricsConfig,
    OrgConfig,
    load_config,
)
from invent_exporter.errors import ConfigError
from invent_exporter.redaction import Redactor

SECRET = "not-a-real-key"
BAD_CONFIGS = sorted((Path(__file__).parent / "bad_configs").glob("*.yaml"))
assert len(BAD_CONFIGS) > 100

EVERY_KEY = """\
api: {url: https://api.example.com/v1/, key_file: keys/api, timeout: 20s,
  requests_per_minute: 240, page_size: 50, max_response: 512KiB}
orgs: [{id: c, name: acme, key_file: keys/other, sub_orgs: false}, {id: org-2}]
poll_interval: 500ms
lookback: 7d
reconcile_interval: 10m
reconcile_window: 36h
state: {url: sqlite:////var/lib/invent.db}
metrics: {duration_buckets: [1, 5, 1e3], queue_buckets: [0.5, 1], credit_buckets: [0.1, 100],
  newborn_hold: 0s, max_workflows: 7, max_exposition: 128MiB, step_credits: true}
workflow_names: {wf-1: nightly import, "42": the answer}
workflow_labels: {wf-1: {team: payments}}
workflows: {include: ["wf-*"], exclude: ["wf-dev-*"]}
links: {run: "https://app.example.com/{org_id}/{workflow_id}/{run_id}"}
log: {runs: all}
"""


def write(folder: Path, text: str | bytes, name: str = "config.yaml") -> Path:
    """Write a file and the folders it needs."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def error_of(path: Path | None, environ: dict[str, str] | None = None) -> str:
    """Return the message that a configuration ends with."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, environ or {})
    return str(caught.value)


@pytest.mark.parametrize("path", BAD_CONFIGS, ids=lambda path: path.stem)
def test_each_mistake_is_told_in_the_one_line_of_its_first_comment(path: Path) -> None:
    """A message that begins with a colon follows the file's name."""
    comment = path.read_bytes().split(b"\n", 1)[0].decode().removeprefix("# ")
    expected = f"{path}{comment}" if comment.startswith(":") else comment
    message = error_of(path)
    assert message == expected
    assert SECRET not in message
    assert "pass@" not in message


def test_every_key_of_the_file_reaches_the_config(tmp_path: Path) -> None:
    """Key files are relative to the configuration file; an org's own goes over the API's."""
    write(tmp_path, SECRET, "keys/api")
    write(tmp_path, "other", "keys/other")
    config = load_config(write(tmp_path, EVERY_KEY), {})
    assert config == Config(
        api=ApiConfig(
            url="https://api.example.com/v1",
            timeout_seconds=20.0,
            requests_per_minute=240.0,
            page_size=50,
            max_response_bytes=512 * 1024,
        ),
        orgs=(
            OrgConfig(id="c", name="acme", key=Key.from_file(tmp_path / "keys/other")),
            OrgConfig(id="org-2", key=Key.from_file(tmp_path / "keys/api")),
        ),
        poll_interval_seconds=0.5,
        lookback_seconds=7 * 86400.0,
        reconcile_interval_seconds=600.0,
        reconcile_window_seconds=36 * 3600.0,
        state_url="sqlite:////var/lib/invent.db",
        metrics=MetricsConfig(
            duration_buckets=(1.0, 5.0, 1000.0),
            queue_buckets=(0.5, 1.0),
            credit_buckets=(0.1, 100.0),
            newborn_hold_seconds=0.0,
            max_workflows=7,
            max_exposition_bytes=128 * 1024**2,
            step_credits=True,
        ),
        workflow_names={"wf-1": "nightly import", "42": "the answer"},
        workflow_labels={"wf-1": {"team": "payments"}},
        workflows_include=("wf-*",),
        workflows_exclude=("wf-dev-*",),
        run_link="https://app.example.com/{org_id}/{workflow_id}/{run_id}",
        logged_runs="all",
    )
    assert [org.key.read() for org in config.orgs] == ["other", SECRET]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "api:\norgs:\nmetrics:\n", "\ufeff"])
def test_an_empty_file_or_section_means_the_defaults(tmp_path: Path, text: str) -> None:
    """A section whose lines are all commented out is as if it were not there.

    That README shows every key with its default is tested in `test_readme`.
    """
    environ = {"INVENT_API_KEY": SECRET}
    config = load_config(write(tmp_path, text), environ)
    assert config == load_config(None, environ)
    assert hash(config) == hash(load_config(None, environ))


def test_only_a_key_is_a_secret_of_the_file(tmp_path: Path) -> None:
    """A workflow may be called like the place of one, and a short key stand in a name."""
    text = "api: {key: test}\norgs: [{id: org-test, name: test}]\n"
    file = write(tmp_path, text + "workflow_names: {key: nightly import, my-key: nightly import}\n")
    redactor = Redactor()
    config = load_config(file, {}, redactor)
    assert config.workflow_names["my-key"] == "nightly import"
    assert redactor.redact("nightly import of test") == "nightly import of [redacted]"


def test_the_environment_is_enough_for_one_org_and_goes_over_the_file(tmp_path: Path) -> None:
    """Blank variables count as not set; an org's own key stays, INVENT_ORG_ID is for no orgs."""
    environ = {
        "INVENT_API_KEY": f" {SECRET}\n",
        "INVENT_API_KEY_FILE": "",
        "INVENT_ORG_ID": "o3",
        "INVENT_API_URL": "http://127.0.0.1:8080/",
        "INVENT_STATE_URL": "sqlite://",
    }
    text = "api: {url: 'https://a.example', key: a}\nstate: {url: 'sqlite:///a.db'}\n"
    file = write(tmp_path, text + "orgs: [{id: o1}, {id: o2, key: own}]\n")
    for path, orgs in ((None, [("o3", SECRET)]), (file, [("o1", SECRET), ("o2", "own")])):
        config = load_config(path, environ)
        assert [(org.id, org.key.read()) for org in config.orgs] == orgs
        assert (config.api.url, config.state_url) == ("http://127.0.0.1:8080", "sqlite://")


MISTAKES_IN_THE_ENVIRONMENT = """
INVENT_ORG_ID=a: no API key: set api.key_file or api.key in the configuration file, \
or INVENT_API_KEY or INVENT_API_KEY_FILE
INVENT_API_KEY=k INVENT_API_KEY_FILE=/k: INVENT_API_KEY_FILE: INVENT_API_KEY is given as well: \
expected one of the two
INVENT_API_KEY_FILE=not-a-real-key: INVENT_API_KEY_FILE: the path (not shown, it may be a key): \
no such file: expected a file that holds the API key
INVENT_API_KEY=not-a-real-key\udc80: INVENT_API_KEY: the key can't stand in a header: \
expected printable ASCII without white space
INVENT_API_KEY=k INVENT_ORG_ID=a\udc80: INVENT_ORG_ID: line breaks or control characters: \
expected one line of plain text
INVENT_API_KEY=k INVENT_API_URL=https://not-a-real-key@a.example: INVENT_API_URL: \
a user name or password is not allowed here: expected none in the URL
INVENT_API_KEY=k INVENT_STATE_URL=postgresql://u:not-a-real-key@db: INVENT_STATE_URL: \
no database is named: expected sqlite:///FILE, sqlite:// to keep nothing, \
or postgresql://USER@HOST/DATABASE
"""
"""Variables, and behind them what is said."""


@pytest.mark.parametrize("line", MISTAKES_IN_THE_ENVIRONMENT.strip().splitlines())
def test_mistakes_in_the_environment_name_the_variable(line: str) -> None:
    """Without a file, the variable is where the mistake stands; the rules are those of the file."""
    variables, message = line.split(": ", 1)
    environ = dict(variable.split("=") for variable in variables.split())
    assert error_of(None, environ) == message


@pytest.mark.parametrize(
    ("variable", "urls"),
    [
        ("INVENT_API_URL", "http://localhost:8080 http://LOCALHOST http://127.1.2.3"),
        ("INVENT_API_URL", "http://[::1]:8080/base https://10.0.0.1 https://[2001:db8::1]:8443"),
        ("INVENT_STATE_URL", "sqlite:// sqlite:///a.db sqlite:////var/lib/a.db"),
    ],
)
def test_urls_are_handed_on_as_written(variable: str, urls: str) -> None:
    """Plain http to any loopback address; a state that is not kept, is relative, or absolute."""
    for url in urls.split():
        config = load_config(None, {"INVENT_API_KEY": SECRET, variable: url})
        assert url in (config.api.url, config.state_url)


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """Not there, a directory, too large or too deep; the text of the file is not part of it."""
    environ = {"INVENT_API_KEY": SECRET}
    missing = tmp_path / "missing\n.yaml"
    expected = "expected a readable YAML file"
    assert error_of(missing, environ) == f"{tmp_path}/missing\\n.yaml: no such file: {expected}"
    assert error_of(tmp_path, environ) == f"{tmp_path}: this is a directory: {expected}"
    large = write(tmp_path, b"#" * (1024 * 1024 + 1))
    assert error_of(large, environ) == f"{large}: the file is too large: expected at most 1 MiB"
    deep = write(tmp_path, b"[" * 1024 * 1024)  # the largest file allowed, all of it brackets
    assert error_of(deep, environ).endswith("nested too deep: expected at most 16 levels")
    os.mkfifo(tmp_path / "pipe")  # opening one without a writer would wait forever
    assert "not a regular file" in error_of(None, {"INVENT_API_KEY_FILE": str(tmp_path / "pipe")})


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_named(tmp_path: Path) -> None:
    """The same for the configuration file and for a key file."""
    file = write(tmp_path, "")
    file.chmod(0)
    assert "not readable for this user" in error_of(file, {"INVENT_API_KEY": SECRET})
    assert "not readable for this user" in error_of(None, {"INVENT_API_KEY_FILE": str(file)})


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b" \n", "the key is empty: expected an API key"),
        (b"two\nlines\n", "the key can't stand in a header"),
        (SECRET.encode("utf-16"), "the key can't stand in a header"),
        (b"k" * 65537, "the file is too large for a key"),
    ],
)
def test_a_key_file_must_hold_one_key(tmp_path: Path, content: bytes, problem: str) -> None:
    """The message names the variable and the file, not its content."""
    file = write(tmp_path, content, "key")
    message = error_of(None, {"INVENT_API_KEY_FILE": str(file)})
    assert message.startswith(f"INVENT_API_KEY_FILE: {file}: {problem}")
    assert len(message) < len(str(file)) + 150


def test_a_key_file_is_read_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In place, replaced, and through a moved symlink, as Kubernetes updates a secret.

    A poll asks for the key each time: that must cost a stat alone.
    """
    file = write(tmp_path, "first\n", "one")
    link = tmp_path / "link"
    link.symlink_to(file)
    key = Key.from_file(link)
    assert key.read() == "first"
    file.write_text("other\n")
    assert key.read() == "other"
    write(tmp_path, "third\n", "new").replace(file)
    assert key.read() == "third"
    link.unlink()
    with pytest.raises(ConfigError, match="no such file"):
        key.read()
    link.symlink_to(write(tmp_path, "fourth", "two"))
    assert key.read() == "fourth"
    monkeypatch.setattr(os, "open", lambda *_: pytest.fail("opened again"))
    assert key.read() == "fourth"


def test_no_form_of_the_config_shows_a_key(tmp_path: Path) -> None:
    """Neither one from the file, nor from a key file, read or not."""
    write(tmp_path, f"{SECRET}-2", "key")
    text = f"orgs: [{{id: a, key: {SECRET}-1}}, {{id: b, key_file: key}}]"
    config = load_config(write(tmp_path, text), {"INVENT_API_KEY": f"{SECRET}-3"})
    assert [org.key.read() for org in config.orgs] == [f"{SECRET}-1", f"{SECRET}-2"]
    for shown in (repr(config), str(config), f"{config.orgs[0].key}", f"{config.orgs!r}"):
        assert SECRET not in shown


def test_postgresql_without_its_driver_is_told_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The driver is an extra."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    said = error_of(None, {"INVENT_API_KEY": SECRET, "INVENT_STATE_URL": "postgresql://db/ledger"})
    assert said == (
        "INVENT_STATE_URL: PostgreSQL's driver is not installed: "
        "expected `pip install 'invent-exporter[postgresql]'` before"
    )


def test_who_keeps_a_file_loads_no_driver_of_postgresql() -> None:
    """It takes time at each start, and need not be there."""
    script = (
        "import sys\nfrom invent_exporter import app\n"
        "app.open_database('sqlite://').close()\nassert 'psycopg' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("url", "shown_as"),
    [
        ("postgresql://u:pass%40word@db:5432/x", "postgresql://u:***@db:5432/x"),
        ("postgres://u:pass%40word@db/x", "postgresql://u:***@db/x"),
        (
            "postgresql://u@a,b:5433/x?password=pass%40word",
            "postgresql://u@a,b:5433/x?password=***",
        ),
        ("postgresql:///x?host=/run&sslpassword=pass%40word&user=u", None),
        ("postgresql://u@db/x?passfile=/run/secrets/pgpass", None),
    ],
)
def test_a_password_of_the_state_is_a_secret_and_not_shown(url: str, shown_as: str | None) -> None:
    """As it stands in the URL, and decoded; all else of the URL is kept and shown."""
    redactor = Redactor()
    environ = {"INVENT_API_KEY": SECRET, "INVENT_STATE_URL": url}
    config = load_config(None, environ, redactor)
    taken = config.state_url
    assert "word" not in repr(config)
    assert taken.partition("://")[2] == url.partition("://")[2]
    hidden = re.sub("(password=)[^&]*", r"\1***", url) if shown_as is None else shown_as
    assert state.shown(taken) == hidden
    if "pass%40word" in url:
        for text in ("it is pass@word", "it is pass%40word"):
            assert redactor.redact(text) != text


@pytest.mark.parametrize("password", ["pass@word", "pass/word", "pass#word", "pass?word", "%zz"])
def test_a_password_that_is_not_written_as_a_url_wants_it_is_not_shown(password: str) -> None:
    """Half of it would be taken for a host, which errors name."""
    url = f"postgresql://u:{password}@db.internal/ledger"
    said = error_of(None, {"INVENT_API_KEY": SECRET, "INVENT_STATE_URL": url})
    assert "other characters as %XX" in said
    assert "word" not in said
