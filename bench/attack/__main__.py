"""Run the attacks that are named, else all, and print one table: `python -m bench.attack [NAME…]`.

The exit status is 1 when a figure is over its bound, or the honest org was not served exactly.
"""

from __future__ import annotations

import argparse
import sys

from rich import box
from rich.console import Console
from rich.table import Table

from bench.attack import by_apis, by_clients
from bench.attack.stage import Attack, Outcome, run

ATTACKS: tuple[Attack, ...] = (*by_apis.ATTACKS, *by_clients.ATTACKS)


def main() -> int:
    """Run; 0 when every figure is within its bound."""
    known = {attack.name: attack for attack in ATTACKS}
    parser = argparse.ArgumentParser(prog="python -m bench.attack", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each one lasts")
    flags = parser.parse_args()
    unknown = set(flags.names) - known.keys()
    if unknown:
        parser.error(f"no such attack: {', '.join(sorted(unknown))}")
    outcomes: list[Outcome] = []
    for name in flags.names or known:
        print(f"{name} …", file=sys.stderr, flush=True)
        outcomes.append(run(known[name], flags.seconds))
    table = Table(box=box.ASCII2, show_lines=True)
    table.add_column("attack", overflow="fold")
    for header in ("scrape p50", "p99", "max", "memory, peak", "stop", "honest org"):
        table.add_column(header)
    for outcome in outcomes:
        table.add_row(outcome.attack.what, *(figure.shown for figure in outcome.figures))
    Console(width=160, highlight=False).print(table)
    return 0 if all(figure.is_met for outcome in outcomes for figure in outcome.figures) else 1


if __name__ == "__main__":
    sys.exit(main())
