"""README and the code have the same metrics, keys, flags, variables and reasons."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from docs import reference
from invent_exporter import cli
from invent_exporter.config.load import Config, Key, OrgConfig, load_config
from invent_exporter.config.schema import KEYS
from invent_exporter.telemetry import POLL_ERROR_REASONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)


def section(title: str) -> str:
    """Return what stands under a heading of the second level."""
    match = re.search(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", README, re.MULTILINE | re.DOTALL
    )
    assert match is not None, f"README has no section {title}"
    return match[1]


def rows(text: str) -> Iterator[list[str]]:
    """Yield the cells of each row of a section's tables."""
    for line in text.splitlines():
        if line.startswith("| "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def declared() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name every family of the code as it is served, with its type and labels."""
    served = (*reference.of_ledger(), *reference.of_process())
    return {family.name: (family.kind, family.labels) for family in served}


def test_metrics_tables_name_metrics_with_their_type_and_labels() -> None:
    """What the tables name, the code serves as they say; the reference has all of it."""
    told = {
        cells[0].strip("`"): (cells[1], tuple(filter(None, cells[2].split(", "))))
        for cells in rows(section("Metrics"))
        if cells[0].startswith("`")
    }
    assert told
    assert told.items() <= declared().items()


@pytest.mark.parametrize(
    ("name", "page"),
    [
        ("metrics", reference.metrics_page),
        ("configuration", reference.configuration_page),
    ],
)
def test_reference_is_made_from_the_code(name: str, page: Callable[[], str]) -> None:
    """The page is what `python -m docs.reference` would write, and leaves no meaning open."""
    text = (ROOT / f"docs/{name}.md").read_text("utf-8")
    assert text == page()
    assert [cells for cells in rows(text) if not cells[3]] == []


def test_reference_names_every_key() -> None:
    """Each key that is known has its row."""
    told = [cells[0].strip("`") for cells in rows(reference.configuration_page())]
    assert sorted(told[2:]) == sorted({*KEYS} - {"orgs"})


def test_metrics_named_elsewhere_exist() -> None:
    """A metric that an example or a sentence names is served under that name."""
    served = set(declared())
    served |= {f"{name}_{part}" for name in declared() for part in ("bucket", "count", "sum")}
    text = "".join((ROOT / name).read_text("utf-8") for name in PAGES if "report" not in name)
    named = set(re.findall(r"\binvent_(?!exporter\b)[a-z_]*[a-z]\b(?!…|_…)", text))
    assert named - served == set()


def example() -> str:
    """Return the whole configuration that README shows."""
    match = re.search(r"```yaml\n(.*?)```", section("Configuration"), re.DOTALL)
    assert match is not None
    return match[1]


def test_example_configuration_is_what_the_code_does_without_one(tmp_path: Path) -> None:
    """The example is accepted as it stands, and shows the defaults, as it says."""
    path = tmp_path / "config.yaml"
    path.write_text(example(), "utf-8")
    key_file = tmp_path / "invent-api-key"
    key_file.write_text("not-a-real-key", "utf-8")
    org = OrgConfig(id="c", key=Key.from_file(key_file))
    assert load_config(path, {}) == Config(orgs=(org,))


def test_example_configuration_has_every_key() -> None:
    """With its commented lines in place the example has the keys that are known, and no other."""
    lines = re.sub(r"^( *)# ( *)([a-z_]+:)", r"\1\2\3", example(), flags=re.MULTILINE)
    whole: dict[str, Any] = yaml.safe_load(lines)
    told = {*whole, *(f"orgs[].{key}" for key in whole["orgs"][0])}
    for section_ in ("api", "state", "metrics", "workflows", "web", "log", "links"):
        told = (told - {section_}) | {f"{section_}.{key}" for key in whole[section_]}
    assert told == set(KEYS)


def flags() -> dict[str, set[str]]:
    """Name every long flag of the code, with the commands that have it."""
    parser = cli._parser()
    commands = next(
        action.choices
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    found: dict[str, set[str]] = {}
    for name, command in commands.items():
        for action in command._actions:
            for flag in action.option_strings:
                if flag.startswith("--") and flag != "--help":
                    found.setdefault(flag, set()).add(name)
    return found


def test_flags_table_names_every_flag_with_its_commands() -> None:
    """The table and the parser have the same flags, of the same commands."""
    told = {}
    for cells in rows(section("Flags and environment")):
        for flag in re.findall(r"`(--[a-z.-]+)`", cells[0]):
            told[flag] = cells[1]
    known = flags()
    everywhere = known["--version"]
    assert told == {
        flag: "all" if commands == everywhere else ", ".join(sorted(commands, key=told[flag].find))
        for flag, commands in known.items()
    }


def test_environment_table_names_every_variable() -> None:
    """The table has the variables that the code reads."""
    told = {
        cells[0].strip("`")
        for cells in rows(section("Flags and environment"))
        if cells[0].startswith("`INVENT_")
    }
    code = "".join(path.read_text("utf-8") for path in (ROOT / "invent_exporter").rglob("*.py"))
    assert told == set(re.findall(r"\bINVENT_[A-Z_]+", code))


def test_troubleshooting_names_every_reason() -> None:
    """Each reason for which a poll fails has its row."""
    told = [cells[0].strip("`") for cells in rows(section("Troubleshooting"))]
    assert tuple(reason for reason in told if reason in POLL_ERROR_REASONS) == POLL_ERROR_REASONS


def anchors(text: str) -> set[str]:
    """Return the anchors that the headings of a page give."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", PAGES)
def test_relative_links_lead_somewhere(name: str) -> None:
    """Every file and heading that a page links to is there."""
    page = ROOT / name
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, anchor = link.partition("#")
        path = page.parent / target if target else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text("utf-8"))):
            broken.append(link)
    assert broken == []


def test_the_map_of_the_house_names_each_module() -> None:
    """And none that is gone; the simulator explains itself."""
    page = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    named: set[str] = set()
    floor = ""
    for line in page.split("## The house")[1].split("\n## ")[0].splitlines():
        floors, modules = (
            [*re.findall(r"`([a-z_/.]+)`", cell)] for cell in f"{line}||".split("|")[1:3]
        )
        floor = floors[0] if floors else floor
        named |= {floor + module for module in modules} if modules else {*floors}
    house = ROOT / "invent_exporter"
    paths = {str(path.relative_to(house)) for path in house.rglob("[a-z]*.py")}
    assert {each for each in named if each.endswith(".py")} == {
        path for path in paths if not path.startswith("simulator/")
    }
