"""Render the chart with a real Helm, as objects to look at."""

import functools
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from tests.programs import run

ROOT: Final = Path(__file__).resolve().parents[2]
CHART: Final = ROOT / "helm" / "invent-exporter"
VALUES_FILES: Final = sorted((CHART / "ci").glob("*-values.yaml"))
HELMS: Final = ("helm3", "helm4")
NEWEST_KUBERNETES: Final = "1.37"
OLDEST_KUBERNETES: Final = "1.25"

Manifest = dict[str, Any]
"""An object of Kubernetes as it stands in YAML: its keys are the API's, not ours."""


class _StrictLoader(yaml.CSafeLoader):
    """Takes no key twice, where PyYAML and Helm would let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002 - PyYAML's signature
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        assert len(set(keys)) == len(keys), f"a key stands twice:{node.start_mark}"
        return super().construct_mapping(node, deep)


def helm(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Helm and return what it said, whatever its exit status."""
    return run(program, *arguments, seconds=120)


@functools.cache
def render(
    program: str = "helm4",
    values_file: Path | None = None,
    sets: tuple[str, ...] = (),
    kubernetes: str = NEWEST_KUBERNETES,
    release: str = "invent",
) -> tuple[Manifest, ...]:
    """Return the objects of a release in namespace `apps`; `sets` are for --set-json."""
    arguments = ["template", release, str(CHART), "--namespace", "apps"]
    arguments += ["--kube-version", kubernetes]
    if values_file is not None:
        arguments += ["--values", str(values_file)]
    for one in sets:
        arguments += ["--set-json", one]
    done = helm(program, *arguments)
    assert done.returncode == 0, done.stderr
    return _read(done.stdout)


def _read(text: str) -> tuple[Manifest, ...]:
    loaded = yaml.load_all(text, Loader=_StrictLoader)
    return tuple(item for item in loaded if item is not None)


def render_many(
    values: Sequence[Manifest], program: str = "helm4", kubernetes: str = NEWEST_KUBERNETES
) -> Iterator[tuple[Manifest, ...]]:
    """Yield the objects of a release for each of the values, with one call of Helm.

    A parent chart names this one once for each, under an alias; what says so is put back.
    """
    aliases = [f"alias{index}" for index in range(len(values))]
    with tempfile.TemporaryDirectory() as folder:
        parent = parent_chart(Path(folder, "parent"), aliases)
        below = {
            alias: {"nameOverride": "invent-exporter", **one}
            for alias, one in zip(aliases, values, strict=True)
        }
        (parent / "values.yaml").write_text(json.dumps(below))
        command = ("template", "invent", str(parent), "--namespace", "apps")
        done = helm(program, *command, "--kube-version", kubernetes)
        assert done.returncode == 0, done.stderr
    texts = dict.fromkeys(aliases, "")
    for document in re.split(r"(?m)^---\n(?=# Source: )", done.stdout)[1:]:
        alias = document.split("/", 3)[2]
        texts[alias] += "---\n" + document.replace(f"{alias}-", "invent-exporter-")
    for alias in aliases:
        yield _read(texts[alias])


def parent_chart(folder: Path, aliases: Sequence[str] = (), **dependency: str) -> Path:
    """Make a chart that depends on this one, once or under each alias; return its folder."""
    (folder / "charts").mkdir(parents=True)
    (folder / "charts" / "invent-exporter").symlink_to(CHART)
    one = {"name": "invent-exporter", "version": "*", **dependency}
    dependencies = [{**one, "alias": alias} for alias in aliases] or [one]
    chart = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": dependencies}
    (folder / "Chart.yaml").write_text(json.dumps(chart))
    return folder


def render_with(path: str, value: object) -> tuple[Manifest, ...]:
    """Return the objects with one value, at a dotted path, other than the default."""
    return render(sets=(f"{path}={json.dumps(value)}",))


def refusal(program: str = "helm4", **values: object) -> str:
    """Return what Helm says against these top-level values; it must refuse them."""
    arguments = ["template", "invent", str(CHART), "--kube-version", NEWEST_KUBERNETES]
    for name, value in values.items():
        arguments += ["--set-json", f"{name}={json.dumps(value)}"]
    done = helm(program, *arguments)
    assert done.returncode != 0, f"{program} accepted {values}"
    return done.stderr


def only(manifests: tuple[Manifest, ...], kind: str) -> Manifest:
    """Return the one object of this kind."""
    found = [item for item in manifests if item["kind"] == kind]
    assert len(found) == 1, f"{len(found)} objects of kind {kind}"
    return found[0]


def kinds(manifests: tuple[Manifest, ...]) -> list[str]:
    """Return the kinds of all objects, sorted."""
    return sorted(item["kind"] for item in manifests)


def by_name(manifests: tuple[Manifest, ...]) -> dict[tuple[str, str], Manifest]:
    """Return the objects by kind and name."""
    return {(item["kind"], item["metadata"]["name"]): item for item in manifests}


def pod_specs(manifests: tuple[Manifest, ...]) -> dict[str, Manifest]:
    """Return the pod specs of all objects that run pods, by kind and name."""
    found = {}
    for item in manifests:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["kind"] == "Pod":
            found[name] = item["spec"]
        elif "template" in item.get("spec", {}):
            found[name] = item["spec"]["template"]["spec"]
    return found


def helm_test_command(address: str) -> list[str]:
    """Return what the pod of `helm test` runs, the Service's address replaced by another."""
    (container,) = only(render(), "Pod")["spec"]["containers"]
    service = "invent-invent-exporter.apps.svc:10480"
    command: list[str] = container["command"]
    assert service in command[-1]
    return [argument.replace(service, address) for argument in command]
