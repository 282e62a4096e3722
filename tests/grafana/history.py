"""Make a week of history out of one scrape: what a backfill, or a week of patience, would give."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

DAY = 86_400
DENSE_SECONDS, DENSE_STEP = 2 * 3600, 60
SPARSE_SECONDS, SPARSE_STEP = 8 * DAY, 1800


def write_history(scrape: str, taken: float, end: int) -> Iterator[str]:
    """Yield lines of OpenMetrics that end at `end` with what was scraped at `taken`, unix times.

    Counters and histograms rise evenly from 0, to a thousand times what was scraped: a week of runs
    instead of a few. Gauges stay. Timestamps move along, so that what was five seconds old when it
    was scraped is so at every moment of the history. Half an hour before the end the process
    restarted, one workflow had another version, and alerts began to fire.
    """
    series = list(_series(scrape))
    changed = next(text for name, text, *_ in series if name == "invent_workflow_info")
    sparse = range(end - SPARSE_SECONDS, end - DENSE_SECONDS, SPARSE_STEP)
    for moment in (*sparse, *range(end - DENSE_SECONDS, end + 1, DENSE_STEP)):
        share = (moment - (end - SPARSE_SECONDS)) / SPARSE_SECONDS
        early = moment < end - 1800
        for name, labels, value, rises in series:
            if early and name.startswith("ALERTS"):
                continue
            now, shown = value, labels
            if rises:
                now = value * share * 1000
            elif name == "process_start_time_seconds":
                now = value - DAY if early else value
            elif name.endswith("_timestamp_seconds") and value:
                now = value - (taken - moment)
            if early and name == "invent_workflow_info" and labels == changed:
                shown = re.sub('version="[^"]*"', 'version="0"', labels)
            yield f"{name}{shown} {now} {moment}\n"
    yield "# EOF\n"


def _kept_workflows(scrape: str) -> set[str]:
    """Choose workflows that say together as much as all of them do, in less time.

    Which workflow has a failed run, an open one or credits by step depends on the hour at which the
    demo began. So of everything that the scrape says of any workflow one that says it is kept.
    """
    said: defaultdict[str, set[tuple[str, ...]]] = defaultdict(set)
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            if "workflow_id" in sample.labels and sample.value:
                about = (sample.labels.get(label, "") for label in ("origin", "status", "kind"))
                said[sample.labels["workflow_id"]].add((sample.name, *about))
    kept: set[str] = set()
    missing = set().union(*said.values())
    while missing:
        most = max(sorted(said), key=lambda workflow: len(said[workflow] & missing))
        kept.add(most)
        missing -= said[most]
    return kept


def _series(scrape: str) -> Iterator[tuple[str, str, float, bool]]:
    target = {"job": "invent-exporter", "instance": "invent-exporter"}
    kept = _kept_workflows(scrape)
    for family in text_string_to_metric_families(scrape):
        rises = family.type in {"counter", "histogram"}
        for sample in family.samples:
            if sample.labels.get("workflow_id") in {None, *kept}:
                yield sample.name, _text({**target, **sample.labels}), sample.value, rises
    for severity in ("critical", "warning"):
        alert = {"alertname": "InventRunFailed", "severity": severity, "job": target["job"]}
        yield "ALERTS", _text({**alert, "alertstate": "firing"}), 1, False
        yield "ALERTS_FOR_STATE", _text(alert), 1, False
    for name, value in (
        ("up", 1),
        ("scrape_duration_seconds", 0.01),
        ("scrape_samples_scraped", 9),
    ):
        yield name, _text(target), value, False


def _text(labels: dict[str, str]) -> str:
    return "{" + ",".join(f'{key}="{_escape(value)}"' for key, value in labels.items()) + "}"


def _escape(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
