"""The job for Nomad: no Nomad runs it here, but HashiCorp's own parser and the exporter read it."""

import re
import sys
import textwrap
from pathlib import Path
from typing import Final

import pytest

from tests.deploy.chart import ROOT
from tests.deploy.go_modules import run_program
from tests.programs import run

HCLFMT: Final = "github.com/hashicorp/hcl/v2/cmd/hclfmt@v2.24.0"
JOB: Final = ROOT / "deploy" / "nomad" / "invent-exporter.nomad.hcl"


@pytest.mark.system
def test_the_job_is_written_as_hclfmt_writes_it() -> None:
    """Its syntax is right, and nothing of it would be laid out in another way."""
    done = run_program(HCLFMT, "-check", "-require-no-change", JOB, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_exporter_accepts_the_configuration_of_the_job(tmp_path: Path) -> None:
    """The real `--config.check` takes the file that the job makes, its key and state in reach."""
    text = JOB.read_text()
    found = re.search(r"<<-YAML\n(.*?)\n +YAML", text, re.DOTALL)
    assert found is not None
    (tmp_path / "api-key").write_text("not-a-real-key\n")
    config = textwrap.dedent(found[1]).replace("/secrets/", f"{tmp_path}/")
    (tmp_path / "config.yaml").write_text(config.replace("////data/", f"///{tmp_path}/"))
    flags = (f"--config.file={tmp_path}/config.yaml", "--config.check")
    done = run(sys.executable, ROOT / "exporter.py", "serve", *flags)
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
