"""The overview in a real Chromium: light, dark and on a phone."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from grafana.pictures import packages
from tests.process.harness import ROOT, free_port, wait_for
from tests.programs import require

pytestmark = pytest.mark.system

LOOKS = [
    {"name": "page-light", "width": 1100, "colorScheme": "light"},
    {"name": "page-dark", "width": 1100, "colorScheme": "dark"},
    {"name": "page-phone", "width": 390, "colorScheme": "light"},
]


def test_the_page_is_whole_and_asks_nobody_and_everybody_can_read_it(tmp_path: Path) -> None:
    """No error in the console, no request elsewhere, nothing that axe finds, nothing too wide."""
    browser, node, _ = require("chromium"), require("node"), require("npm")
    packages.install()
    port, simulator = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "exporter.py", "demo", f"--web.listen-address=127.0.0.1:{port}"]
    command += [f"--simulator.listen-address=127.0.0.1:{simulator}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as demo:
        try:
            wait_for("a run of the demo fails", lambda: _has_failed(url))
            job = {
                "url": url,
                "modules": f"{packages.FOLDER}/",
                "browser": str(browser),
                "out": str(tmp_path),
            }
            done = subprocess.run(
                [str(node), str(Path(__file__).with_name("browse.mjs"))],
                input=json.dumps({**job, "looks": LOOKS}),
                capture_output=True,
                text=True,
                check=False,
            )
        finally:
            demo.terminate()
    assert done.returncode == 0, done.stderr
    seen = [json.loads(line) for line in done.stdout.splitlines()]
    assert [look["name"] for look in seen] == [look["name"] for look in LOOKS]
    for look in seen:
        found = (look["said"], set(look["asked"]), look["wrong"], look["wide"])
        assert found == ([], {url}, [], 0), look["name"]
        assert "Newest failed runs" in look["text"]
        assert "credits" in look["text"]


def _has_failed(url: str) -> bool:
    try:
        orgs = httpx.get(f"{url}/api/status", trust_env=False).json()["orgs"]
    except httpx.TransportError:
        time.sleep(0.2)
        return False
    return any(hour["finished"].get("FAILED") for org in orgs for hour in org["hours"])
