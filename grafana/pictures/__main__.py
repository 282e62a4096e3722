"""Draw every dashboard and look at what was drawn: `python -m grafana.pictures`.

Each scene becomes a Prometheus with a past; Grafana's own components draw the dashboards against it
in Chromium. What a person would trip over is looked for in each picture; the exit status is 1 when
something was found. Histories are kept, and made anew when what they are made from has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from grafana.pictures import packages, past, scenes
from grafana.pictures.checks import Job, look_at
from grafana.pictures.history import Scene

HERE = Path(__file__).parent
DASHBOARDS = HERE.parent / "dashboards"
DRILL = HERE.parents[1] / "drill"
DOCS = HERE.parents[1] / "docs" / "pictures"
BOARDS = ("overview", "workflow", "exporter")
SHAPES = (("dark", 1920), ("light", 1280))
IN_DOCS = {
    "a-quiet-day-overview-dark-1280-top": "overview-quiet",
    "an-incident-overview-dark-1280-top": "overview-incident",
    "an-incident-workflow-light-1280-top": "workflow",
    "a-hundred-orgs-exporter-dark-1280-top": "exporter",
    "a-backfilled-day-workflow-light-1280-top": "backfilled",
}


def main() -> int:
    """Draw, check, and return 1 when something is wrong."""
    parser = argparse.ArgumentParser(prog="python -m grafana.pictures", description=__doc__)
    parser.add_argument("--out", type=Path, default=HERE / "out", help="where pictures go")
    parser.add_argument("--orgs", type=int, default=100, help="size of the large scene")
    parser.add_argument("--hours", type=float, default=1, help="length of the large scene")
    parser.add_argument("--docs", action="store_true", help="write the pictures of the docs too")
    flags = parser.parse_args()
    small = {**scenes.DRILL, **scenes.SIZES}
    shown = {**small, "a hundred orgs": scenes.hundred_orgs(flags.hours, flags.orgs)}
    _install()
    # Two at a time: most of it is promtool's work.
    with ThreadPoolExecutor(2) as makers:
        made = makers.map(lambda one: _made(flags.out / "past", *one), shown.items())
        folders = dict(zip(shown, made, strict=True))
    with ExitStack() as servers:
        urls = {
            name: servers.enter_context(past.prometheus(folder, _lookback(shown[name])))
            for name, folder in folders.items()
        }
        for name, scene in shown.items():
            if scene.habits and not scene.is_backfilled:
                past.wait_for_exemplars(urls[name], scene)
        jobs = list(_jobs(urls, flags.out))
        flaws = [flaw for job, seen in _draw(jobs) for flaw in look_at(job, seen)]
    if flags.docs:
        for name, called in IN_DOCS.items():
            shutil.copyfile(flags.out / f"{name}.png", DOCS / f"{called}.png")
    print(f"{len(jobs)} pictures in {flags.out}", *flaws, sep="\n")
    return int(bool(flaws))


def _lookback(scene: Scene) -> str:
    return past.BACKFILLED_LOOKBACK if scene.is_backfilled else past.SCRAPED_LOOKBACK


def _install() -> None:
    packages.install()
    subprocess.run(["node", "types.mjs", str(DASHBOARDS)], cwd=HERE, check=True)


def _made(folder: Path, name: str, scene: Scene) -> Path:
    """Return the folder of a scene's past, made now unless it is there."""
    own = (HERE / f"{module}.py" for module in ("backfilled", "history", "past", "scenes"))
    sources = sorted([*DRILL.glob("*.py"), *own, *past.RULES.glob("*.yaml")])
    texts = (name, str(scene.begin), str(len(scene.habits)), *map(Path.read_text, sources))
    key = hashlib.sha256("".join(texts).encode()).hexdigest()
    made = folder / _slug(name)
    stamp = made / "made-from"
    if not stamp.exists() or stamp.read_text() != key:
        print(f"making the past of: {name}", file=sys.stderr)
        shutil.rmtree(made, ignore_errors=True)
        past.build(scene, made)
        stamp.write_text(key)
    return made


def _slug(name: str) -> str:
    return name.lower().replace("'", "").replace(" ", "-")


def _jobs(urls: dict[str, str], out: Path) -> Iterator[Job]:
    for scene, url in urls.items():
        if scene in scenes.DRILL and scene != "A quiet day":
            yield Job(scene, "overview", "dark", 1920, url, out, top=True)
            continue
        for board in BOARDS:
            for theme, width in SHAPES:
                yield Job(scene, board, theme, width, url, out)
    for scene in ("A quiet day", "an incident", "a hundred orgs", "an agency at night"):
        for board in BOARDS:
            yield Job(scene, board, "dark", 1280, urls[scene], out, top=True)
            yield Job(scene, board, "light", 1280, urls[scene], out, top=True)
            yield Job(scene, board, "dark", 1280, urls[scene], out, is_open=True)
    for board in ("overview", "workflow"):
        url = urls["a backfilled day"]
        yield Job("a backfilled day", board, "light", 1280, url, out, top=True)
    for theme in ("dark", "light"):
        yield Job(
            *("an incident", "overview", theme, 1920, urls["an incident"], out),
            vision="deuteranopia",
        )


def _draw(jobs: list[Job]) -> Iterator[tuple[Job, dict[str, object]]]:
    browser = shutil.which("chromium")
    asked = {
        "dashboards": str(DASHBOARDS),
        "browser": browser,
        "jobs": [
            {
                "out": str(job.out / f"{_slug(job.name)}.png"),
                "width": job.width,
                "whole": not job.top,
                "vision": job.vision,
                "page": {
                    "dashboard": job.board,
                    "theme": job.theme,
                    "prometheus": job.url,
                    "now": scenes.END,
                    "open": str(job.is_open).lower(),
                    **job.chosen,
                },
            }
            for job in jobs
        ],
    }
    command = ["node", str(HERE / "look.mjs")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None  # noqa: S101 (both are pipes, as asked)
        assert process.stdout is not None  # noqa: S101
        process.stdin.write(json.dumps(asked).encode())
        process.stdin.close()
        yield from zip(jobs, map(json.loads, process.stdout), strict=True)


if __name__ == "__main__":
    sys.exit(main())
