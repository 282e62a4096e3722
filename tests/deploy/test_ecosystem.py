"""The configurations for other programs: read by those programs, and the same everywhere."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.chart import ROOT
from tests.programs import require

SCRAPE = ROOT / "deploy" / "scrape"
OTEL = yaml.safe_load((SCRAPE / "otel-collector.yaml").read_text())


def _relabeling(path: Path) -> tuple[str, ...]:
    """Return what picks the ledger's series, and what becomes of them, in whatever language."""
    text = re.sub(r"\s*=\s*", ": ", path.read_text()).replace('"', "")
    found = re.findall(r"^\W*(?:regex|target_label|replacement): *(.+)$", text, re.MULTILINE)
    return tuple(found[:3])


def test_every_program_gives_the_series_the_same_instance() -> None:
    """As the configuration for Prometheus does, which a test tries across pods."""
    expected = _relabeling(ROOT / "deploy" / "prometheus" / "prometheus.yml")
    paths = sorted(SCRAPE.iterdir())
    assert [path.name for path in paths if _relabeling(path) != expected] == []


@pytest.mark.system
@pytest.mark.parametrize("agent", [False, True], ids=["server", "agent"])
def test_prometheus_reads_the_one_with_remote_write(agent: bool) -> None:  # noqa: FBT001
    """Exemplars are sent on, too."""
    path = SCRAPE / "remote-write.yml"
    command = [str(require("promtool")), "check", "config", str(path)]
    subprocess.run([*command, *(["--agent"] if agent else [])], check=True)


@pytest.mark.system
def test_prometheus_reads_the_scrape_of_the_opentelemetry_collector(tmp_path: Path) -> None:
    """The collector's receiver takes Prometheus' own configuration, and reads it with its code."""
    inner: dict[str, Any] = OTEL["receivers"]["prometheus"]["config"]
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(inner))
    subprocess.run(
        [str(require("promtool")), "check", "config", str(tmp_path / "prometheus.yml")], check=True
    )


def test_the_pipeline_of_the_opentelemetry_collector_is_closed() -> None:
    """What a pipeline names is defined, and what is defined is used."""
    (pipeline,) = OTEL["service"]["pipelines"].values()
    assert pipeline["receivers"] == list(OTEL["receivers"])
    assert pipeline["exporters"] == list(OTEL["exporters"])


@pytest.mark.system
def test_vmagent_reads_its_own(tmp_path: Path) -> None:
    """Unknown keys are errors for it."""
    command = [
        str(require("vmagent")),
        "-dryRun",
        "-promscrape.config.strictParse",
        f"-promscrape.config={SCRAPE / 'vmagent.yaml'}",
        "-remoteWrite.url=http://127.0.0.1:1/api/v1/write",
        f"-remoteWrite.tmpDataPath={tmp_path}",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
