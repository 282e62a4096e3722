"""The rules and dashboards that come with the program."""

from pathlib import Path

import pytest

from invent_exporter.cli import main
from invent_exporter.commands.assets import write_assets

GRAFANA = Path(__file__).resolve().parents[2] / "grafana"


def test_rules_and_dashboards_are_those_of_grafana(tmp_path: Path) -> None:
    """Each file byte for byte, in a folder that need not exist.

    Those of an older version are replaced, what else is in the folder stays.
    """
    target = tmp_path / "new" / "folder"
    expected = {
        target / path.relative_to(GRAFANA): path.read_bytes()
        for path in (*GRAFANA.glob("dashboards/*.json"), *GRAFANA.glob("rules/*.yaml"))
    }
    for _ in range(2):
        assert {path: path.read_bytes() for path in write_assets(target)} == expected
        assert {path for path in target.rglob("*") if path.is_file()} == expected.keys()
        (target / "rules" / "runs.yaml").write_text("old")
    assert len(expected) == 7
    mine = target / "rules" / "mine.yaml"
    mine.write_text("mine")
    write_assets(target)
    assert mine.read_text() == "mine"


def test_the_command_prints_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One path a line; a folder that can't be made is one line on stderr and exit 1."""
    assert main(["assets", "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert {Path(line) for line in printed} == {
        path for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    (tmp_path / "file").write_text("")
    assert main(["assets", "--output", str(tmp_path / "file")]) == 1
    assert capsys.readouterr().err == (
        f"invent-exporter: --output: {tmp_path}/file/dashboards: Not a directory\n"
    )
