"""Run the benchmarks that are named, else all, and print one table: `python -m bench [NAME…]`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from bench.table import Row, Size, show

QUESTIONS = (
    "scrape",
    "scrape_busy",
    "scrape_rate",
    "publish",
    "catch_up",
    "first_contact",
    "freshness",
    "idle",
    "orgs",
    "start",
    "ledger",
    "reconcile",
    "backfill",
    "imports",
)


def main() -> int:
    """Run; 0 when every target is met."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(QUESTIONS))
    parser.add_argument(
        "--small", action="store_true", help="small sizes: shows that it works, not how fast it is"
    )
    flags = parser.parse_args()
    unknown = set(flags.names) - set(QUESTIONS)
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    for name in flags.names or QUESTIONS:
        print(f"{name} …", file=sys.stderr, flush=True)
        made: list[Row] = import_module(f"bench.{name}").rows(Size(flags.small))
        rows += made
        for row in made:
            print(f"  {row.question}: {row.measured} {row.ratio}", file=sys.stderr, flush=True)
    show(rows)
    return 0 if all(row.is_met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
