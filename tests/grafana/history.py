"""Make a week of history out of one scrape: what a backfill, or a week of patience, would give."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families

DAY = 86_400
DENSE_SECONDS, DENSE_STEP = 2 * 3600, 60
SPARSE_SECONDS, SPARSE_STEP = 8 * DAY, 1800


def write_history(scrape: str, end: int) -> Iterator[str]:
    """Yield lines of OpenMetrics that end with the scrape's values at `end`, a unix time.

    Counters and histograms rise evenly from 0, timestamps move along, other gauges stay. Half an
    hour before the end the process restarted and one workflow had another version.
    """
    series = list(_series(scrape))
    changed = next(text for name, text, *_ in series if name == "invent_workflow_info")
    sparse = range(end - SPARSE_SECONDS, end - DENSE_SECONDS, SPARSE_STEP)
    for moment in (*sparse, *range(end - DENSE_SECONDS, end + 1, DENSE_STEP)):
        share = (moment - (end - SPARSE_SECONDS)) / SPARSE_SECONDS
        early = moment < end - 1800
        for name, labels, value, rises in series:
            now, shown = value, labels
            if rises:
                now = value * share
            elif name == "process_start_time_seconds":
                now = value - DAY if early else value
            elif name.endswith("_timestamp_seconds") and value:
                now = value - (end - moment)
            if early and name == "invent_workflow_info" and labels == changed:
                shown = re.sub('version="[^"]*"', 'version="0"', labels)
            yield f"{name}{shown} {now} {moment}\n"
    yield "# EOF\n"


def _kept_workflows(scrape: str) -> set[str]:
    """Choose the busiest and those with open runs: they say as much as all, in less time."""
    finished: Counter[str] = Counter()
    is_open: set[str] = set()
    for family in text_string_to_metric_families(scrape):
        for sample in family.samples:
            if sample.name == "invent_runs_finished_total":
                finished[sample.labels["workflow_id"]] += int(sample.value)
            elif sample.name == "invent_runs_open_oldest_timestamp_seconds":
                is_open.add(sample.labels["workflow_id"])
    return {workflow for workflow, _ in finished.most_common(2)} | set(sorted(is_open)[:2])


def _series(scrape: str) -> Iterator[tuple[str, str, float, bool]]:
    target = {"job": "invent-exporter", "instance": "invent-exporter"}
    kept = _kept_workflows(scrape)
    for family in text_string_to_metric_families(scrape):
        rises = family.type in {"counter", "histogram"}
        for sample in family.samples:
            if sample.labels.get("workflow_id") in {None, *kept}:
                yield sample.name, _text({**target, **sample.labels}), sample.value, rises
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
