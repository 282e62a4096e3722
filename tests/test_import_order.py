"""Imports inside the package go one way: from the commands down to the model.

    cli → app → server → exposition → metrics ┐
              → collector → scan, api, ledger ┴→ numbers → model

A layer is a module of `invent_exporter`, or a subpackage as a whole. A new one gets a line in
MAY_IMPORT; a line that needs more than the layers below it is a question about the design first.
"""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = "invent_exporter"
THIS = Path(__file__).name
PACKAGE_DIR = Path(__file__).parent.parent / PACKAGE

# Layer → the layers that it may import. Itself (inside a subpackage), `telemetry` and the package's
# own `__version__` are open to every layer and not named here.
MAY_IMPORT: Mapping[str, frozenset[str]] = {
    layer: frozenset(allowed.split())
    for layer, allowed in {
        # These import nothing of the package.
        "__init__": "",
        "config_error": "",
        "database": "",
        "log": "",
        "model": "",
        "telemetry": "",
        # From a file and the environment to the configuration.
        "key": "config_error",
        "yaml_nodes": "config_error",
        "config_values": "config_error yaml_nodes",
        "config": "config_error config_values key yaml_nodes",
        # What is known of runs.
        "numbers": "model",
        "order": "model",
        "walk": "order",
        "scan": "model order walk",
        # What the scan learned is stored with what was counted, in the scan's own types.
        "recording": "database model numbers order scan",
        "ledger": "database model numbers recording scan",
        # From the API to the ledger.
        "bodies": "",
        "client": "config_error",
        "clocks": "",
        "pacing": "",
        "page_size": "",
        "transport": "bodies client pacing",
        "decoding": "model transport",
        "api": "config decoding model pacing page_size transport",
        "reading": "api ledger model order recording walk",
        "collector": "api clocks ledger log model pacing publisher reading recording scan transport"
        " walk",
        "overview": "collector page publisher",
        # From the ledger to the answer.
        "metrics": "config model numbers",
        "exposition": "metrics model numbers",
        "http_protocol": "",
        "listen": "http_protocol",
        "page": "model",
        "publisher": "exposition ledger log metrics model recording",
        "server": "config exposition http_protocol listen model numbers page",
        # What puts them together.
        "app": "api clocks collector config database exposition ledger listen log numbers"
        " overview pacing publisher recording server transport",
        "check": "api clocks config log pacing transport",
        "commands": "",
        "demo": "config simulator",
        "cli": "app check client commands config database demo listen log server",
        # The fake API knows nothing of the product that it tests.
        "simulator": "",
    }.items()
}
OPEN_TO_ALL = frozenset({"telemetry"})
# The layers that may not even import that.
BARRED_FROM_ALL = frozenset(
    {"__init__", "database", "model", "simulator", "telemetry"}
    | {"config", "config_error", "config_values", "key", "yaml_nodes"}
)

# A command's modules are loaded only when that command runs; elsewhere an import inside a function
# hides a cycle.
MAY_IMPORT_LAZILY = frozenset({"app", "cli"})


@dataclass(frozen=True)
class Import:
    """One import statement: where it stands and which module of the package it names, if one."""

    line: int
    in_function: bool
    statement: str
    target: str | None


def _module_name(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    if len(parts) > 1 and parts[-1] == "__init__":
        parts = parts[:-1]
    return ".".join(parts)


def _layer(module: str) -> str:
    return module.partition(".")[0]


def _targets(node: ast.Import | ast.ImportFrom, modules: frozenset[str]) -> Iterator[str | None]:
    """Name the modules of the package that a statement imports, None for all others."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        # `from a import b` names the module a.b where there is one, else a name in the module a.
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    for name in names:
        package, _, rest = name.partition(".")
        if package != PACKAGE:
            yield None
            continue
        while rest and rest not in modules:
            rest = rest.rpartition(".")[0]
        yield rest or "__init__"


def _imports(tree: ast.AST, modules: frozenset[str]) -> Iterator[Import]:
    pending = [(tree, False)]
    while pending:
        node, in_function = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in _targets(node, modules):
                yield Import(node.lineno, in_function, ast.unparse(node), target)
        in_function |= isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        pending.extend((child, in_function) for child in ast.iter_child_nodes(node))


def _fault(module: str, found: Import) -> str | None:
    """Say which rule an import of a listed layer breaks, None when it is right."""
    layer = _layer(module)
    if found.in_function and layer not in MAY_IMPORT_LAZILY:
        lazy = ", ".join(sorted(MAY_IMPORT_LAZILY))
        return f"`{found.statement}` stands in a function, which only {lazy} may do"
    if found.target is None:
        return None
    target = _layer(found.target)
    allowed = MAY_IMPORT[layer]
    if layer not in BARRED_FROM_ALL:
        allowed |= OPEN_TO_ALL
    # A layer that is not listed is reported once, where its file stands.
    if target in allowed | {layer, "__init__"} or target not in MAY_IMPORT:
        return None
    permitted = " ".join(sorted(allowed)) or "nothing"
    return f"{layer} must not import {target}; it may import: {permitted}"


def violations(root: Path) -> list[str]:
    """Return a line for each import under `root` (a package's folder) that breaks a rule."""
    paths = {_module_name(path, root): path for path in sorted(root.rglob("*.py"))}
    modules = frozenset(paths)
    graph: dict[str, set[str]] = {}
    faults = []
    for module, path in paths.items():
        where = path.relative_to(root.parent)
        if _layer(module) not in MAY_IMPORT:
            faults.append(
                f"{where}:1: {_layer(module)} is not listed: add it to MAY_IMPORT in tests/{THIS}"
            )
            continue
        for found in _imports(ast.parse(path.read_text("utf-8"), path), modules):
            fault = _fault(module, found)
            if fault is not None:
                faults.append(f"{where}:{found.line}: {fault}")
            if found.target is not None:
                graph.setdefault(module, set()).add(found.target)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = " → ".join(reversed(error.args[1]))
        faults.append(f"{root.name}: modules import each other in a circle: {cycle}")
    return faults


def test_imports_of_the_package_go_one_way() -> None:
    """No import goes up, hides in a function or closes a circle."""
    faults = violations(PACKAGE_DIR)
    assert not faults, "\n" + "\n".join(faults)


RULE_BREAKERS = {
    "upward": (
        "model.py",
        "import os\n\nfrom invent_exporter.ledger import Ledger\n",
        "invent_exporter/model.py:3: model must not import ledger; it may import: nothing",
    ),
    "a name out of the package": (
        "ledger.py",
        "from invent_exporter import __version__, server\n",
        "invent_exporter/ledger.py:1: ledger must not import server; it may import: database ",
    ),
    "plain import": (
        "scan.py",
        "import invent_exporter.api\n",
        "invent_exporter/scan.py:1: scan must not import api; it may import: ",
    ),
    "telemetry in a layer that imports nothing": (
        "database.py",
        "from invent_exporter import telemetry\n",
        "invent_exporter/database.py:1: database must not import telemetry; it may import: nothing",
    ),
    "the simulator out of its folder": (
        "simulator/server.py",
        "from invent_exporter.model import Run\n",
        (
            "invent_exporter/simulator/server.py:1: simulator must not import model; "
            "it may import: nothing"
        ),
    ),
    "under a condition": (
        "metrics.py",
        "if True:\n    from invent_exporter.server import Server\n",
        "invent_exporter/metrics.py:2: metrics must not import server; it may import: ",
    ),
    "in a function": (
        "api.py",
        "def read() -> None:\n    import json\n",
        "invent_exporter/api.py:2: `import json` stands in a function, which only app, cli may do",
    ),
    "a module nobody listed": (
        "helpers.py",
        "",
        "invent_exporter/helpers.py:1: helpers is not listed: add it to MAY_IMPORT in ",
    ),
    "a circle in a subpackage": (
        "simulator/world.py",
        "from invent_exporter.simulator import routes\n",
        "invent_exporter: modules import each other in a circle: ",
    ),
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Make a small package in which every rule is kept."""
    files = {
        "__init__.py": '__version__ = "1"\n',
        "api.py": "from invent_exporter.model import Run\n",
        "cli.py": "def main() -> None:\n    from invent_exporter.app import serve\n",
        "app.py": "import invent_exporter.ledger\nfrom invent_exporter import __version__\n",
        "collector.py": "from invent_exporter import ledger, model, scan, telemetry\n",
        "config.py": "",
        "ledger.py": "",
        "metrics.py": "",
        "model.py": "",
        "scan.py": "from invent_exporter.model import Run\n",
        "server.py": "",
        "telemetry.py": "from invent_exporter import __version__\n",
        "simulator/__init__.py": "",
        "simulator/routes.py": "from invent_exporter.simulator import world\n",
        "simulator/world.py": "",
    }
    root = tmp_path / PACKAGE
    (root / "simulator").mkdir(parents=True)
    for name, text in files.items():
        (root / name).write_text(text, "utf-8")
    return root


def test_package_that_keeps_the_rules_has_no_violation(package: Path) -> None:
    """What the table allows is not complained about."""
    assert violations(package) == []


@pytest.mark.parametrize(("name", "text", "expected"), RULE_BREAKERS.values(), ids=RULE_BREAKERS)
def test_broken_rule_is_named_with_file_and_line(
    package: Path, name: str, text: str, expected: str
) -> None:
    """Each rule, broken once, gives one line that says where and what is allowed."""
    (package / name).write_text(text, "utf-8")
    faults = violations(package)
    assert len(faults) == 1
    assert faults[0].startswith(expected)
