"""A state file behind symbolic links: one ledger, whatever name leads to it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from invent_exporter.commands.check_machine import look_at
from invent_exporter.commands.migrate import migrate
from invent_exporter.config.key import Key
from invent_exporter.config.load import Config
from invent_exporter.config.schema import OrgConfig
from invent_exporter.errors import StateError, UsageError
from invent_exporter.ledger import sqlite
from invent_exporter.ledger.database import alone, open_database
from invent_exporter.ledger.reading import reading
from tests.ledger.test_upgrade import OLD, rows
from tests.ledger.writing import FINISHED, count, open_ledger, run_writer


def _link_to_file(folder: Path, real: Path) -> Path:
    real.touch()
    return _dangling_link(folder, real)


def _dangling_link(folder: Path, real: Path) -> Path:
    link = folder / "link.db"
    link.symlink_to(real)
    return link


def _parent_link(folder: Path, real: Path) -> Path:
    (folder / "mounted").symlink_to(real.parent)
    return folder / "mounted" / real.name


Link = Callable[[Path, Path], Path]
links = pytest.mark.parametrize("link", [_link_to_file, _dangling_link, _parent_link])


@pytest.fixture
def real(tmp_path: Path) -> Path:
    """Name the file that the links lead to."""
    (tmp_path / "real").mkdir()
    return tmp_path / "real" / "state.db"


@links
def test_what_a_killed_process_committed_is_there_by_every_name(
    tmp_path: Path, real: Path, link: Link
) -> None:
    """All of it is in the log still, beside the file that the link leads to."""
    named = link(tmp_path, real)
    assert run_writer(named, "r1", "r2", end=signal.SIGKILL).returncode == -signal.SIGKILL
    for name in (named, real):
        with reading(f"sqlite:///{name}") as state:
            assert state is not None
            assert state.connection.exec_driver_sql(FINISHED).scalar_one() == 2
    for number, name in enumerate((named, real, named)):
        ledger = open_ledger(name)
        assert count(ledger, f"later-{number}") == 3 + number
        ledger.close()
    assert rows(real, "SELECT count(*) FROM meta") == [(1,)]
    assert {file.name for file in real.parent.iterdir()} == {"state.db", "state.db.lock"}
    assert not list(tmp_path.glob("link.db?*"))


@links
def test_a_link_and_its_file_are_held_as_one(tmp_path: Path, real: Path, link: Link) -> None:
    """Whichever name came first, the other is refused, as it was configured."""
    named = link(tmp_path, real)
    for first, second in ((named, real), (real, named)):
        ledger = open_ledger(first)
        done = run_writer(second, "r1")
        assert f"state.url: {second} is held by another process" in done.stderr
        ledger.close()


def test_a_link_that_leads_nowhere_names_both_ends(tmp_path: Path) -> None:
    """Where its file would be, no folder is."""
    link = _dangling_link(tmp_path, tmp_path / "missing" / "state.db")
    with pytest.raises(StateError, match=rf"{link}: .*/missing/state\.db.*writable directory"):
        open_database(f"sqlite:///{link}")


def test_what_an_upgrade_saves_stands_beside_the_file(tmp_path: Path, real: Path) -> None:
    """There a reader of the folder looks for it; the link's folder may be read-only."""
    link = _link_to_file(tmp_path, Path(shutil.copy(OLD, real)))
    open_database(f"sqlite:///{link}").close()
    assert Path(f"{real}.schema-1").exists()
    assert link.is_symlink()


def test_a_file_removed_behind_its_link_is_put_back_there(tmp_path: Path, real: Path) -> None:
    """The link stays a link."""
    link = _link_to_file(tmp_path, real)
    ledger = open_ledger(link)
    assert count(ledger, "r1") == 1
    real.unlink()
    with pytest.raises(Exception, match="removed or replaced"):
        count(ledger, "r2")
    assert count(ledger, "r2") == 2
    ledger.close()
    assert link.is_symlink()
    assert rows(real, FINISHED) == [(2,)]


@pytest.mark.parametrize("link", [_link_to_file, _parent_link])
def test_a_link_moved_while_in_use_makes_nothing_count(
    tmp_path: Path, real: Path, link: Link
) -> None:
    """The next start would go elsewhere. What stands there is left alone, and it can be undone."""
    named = link(tmp_path, real)
    ledger = open_ledger(named)
    assert count(ledger, "r1") == 1
    moved = named if named.is_symlink() else named.parent
    target = moved.readlink()
    other = tmp_path / "other" / "state.db"
    other.parent.mkdir()
    other.write_bytes(b"another's")
    moved.unlink()
    moved.symlink_to(other if moved == named else other.parent)
    for _ in range(2):
        with pytest.raises(Exception, match=f"point it to {real} again"):
            count(ledger, "r2")
    moved.unlink()
    moved.symlink_to(target)
    assert count(ledger, "r2") == 2
    ledger.close()
    assert other.read_bytes() == b"another's"
    assert [file.name for file in other.parent.iterdir()] == ["state.db"]


def test_a_ledger_is_never_made_over_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a look at the file took it for blank: one line, and it is as it was."""
    path = tmp_path / "state.db"
    ledger = open_ledger(path)
    assert count(ledger, "r1") == 1
    ledger.close()
    before = path.read_bytes()
    with monkeypatch.context() as blind:
        blind.setattr(sqlite, "is_blank", lambda _path: True)
        with pytest.raises(StateError, match=rf"^state\.url: {path} .*has a ledger.*$") as raised:
            open_database(f"sqlite:///{path}")
    assert "\n" not in str(raised.value)
    assert path.read_bytes() == before
    ledger = open_ledger(path)
    assert count(ledger, "r2") == 2
    ledger.close()


def test_migrate_sees_through_links(tmp_path: Path, real: Path) -> None:
    """From a file to itself nothing is copied; from behind a link all is."""
    link = _link_to_file(tmp_path, real)
    ledger = open_ledger(link)
    count(ledger, "r1")
    with pytest.raises(StateError, match=rf"{link} is held by another process"):
        migrate(f"sqlite:///{link}", f"sqlite:///{tmp_path}/new.db")
    ledger.close()
    with pytest.raises(UsageError, match="the same as --from"):
        migrate(f"sqlite:///{link}", f"sqlite:///{real}")
    assert "1 rows of run" in migrate(f"sqlite:///{link}", f"sqlite:///{tmp_path}/new.db")


def test_a_command_that_writes_holds_the_file_behind_the_link(tmp_path: Path, real: Path) -> None:
    """As `ledger forget` does."""
    link = _link_to_file(tmp_path, real)
    open_ledger(link).close()
    with alone(f"sqlite:///{link}"):
        assert "held by another process" in run_writer(real, "r1").stderr


def test_check_looks_at_the_disk_behind_the_link(tmp_path: Path) -> None:
    """And at the folder in which the file would be made; it names the path as configured."""
    link = _dangling_link(tmp_path, Path("/proc/state.db"))
    org = OrgConfig(key=Key.literal("not-a-real-key", "here"))
    config = Config(orgs=(org,), state_url=f"sqlite:///{link}")
    line = next(line for line in look_at(config, []) if line.what == "state")
    assert line.found == f"{link}, not there yet, on proc"
