"""Run sequences of the state machine for as long as told; each batch names the seed it came from.

python -m tests.soak --seconds 3600
python -m tests.soak --seed 17 --sequences 50      # the batch that failed, once more
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.proof.machine import Machine

BATCH = 50
STEPS = 25


@dataclass(frozen=True)
class Batch:
    """Sequences that were run from one seed; `failure` is what went wrong, and how to see it."""

    seed: int
    sequences: int
    failure: str | None


def run_batch(
    number: int, sequences: int, *, shrinks: bool = True, kind: type[Machine] = Machine
) -> Batch:
    """Run sequences that follow from a seed alone; `shrinks` looks for a short one that fails."""
    machine = seed(number)(type("SeededMachine", (kind,), {"__doc__": kind.__doc__}))
    chosen = settings(
        max_examples=sequences,
        stateful_step_count=STEPS,
        deadline=None,
        database=None,
        derandomize=False,
        phases=(Phase.generate, *([Phase.shrink] if shrinks else [])),
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=chosen)
    except Exception as error:  # noqa: BLE001 (whatever it is, it is the finding)
        notes = getattr(error, "__notes__", [])
        return Batch(number, sequences, "\n".join([*traceback.format_exception(error), *notes]))
    return Batch(number, sequences, None)


def soak(
    first_seed: int, *, sequences: int | None, seconds: float, processes: int, is_loud: bool
) -> list[Batch]:
    """Run batches until there are enough sequences, the time is over, or one failed."""
    ends = time.monotonic() + seconds
    context = multiprocessing.get_context("spawn")
    done: list[Batch] = []
    under_way: set[Future[Batch]] = set()
    started = 0
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        while True:
            is_enough = sequences is not None and started >= sequences
            is_over = time.monotonic() >= ends or any(batch.failure for batch in done)
            while not (is_enough or is_over) and len(under_way) < processes:
                size = BATCH if sequences is None else min(BATCH, sequences - started)
                number = first_seed + started // BATCH
                under_way.add(pool.submit(run_batch, number, size))
                started += size
                is_enough = sequences is not None and started >= sequences
            if not under_way:
                return done
            finished, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for future in finished:
                batch = future.result()
                done.append(batch)
                if is_loud:
                    total = sum(each.sequences for each in done)
                    result = batch.failure or "green"
                    print(f"seed {batch.seed}: {result}; {total} in all", flush=True)  # noqa: T201


def main() -> int:
    """Read the flags, run, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=float("inf"))
    parser.add_argument("--sequences", type=int, default=None)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000_000))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    flags = parser.parse_args()
    print(f"seed {flags.seed}", flush=True)  # noqa: T201
    batches = soak(
        flags.seed,
        sequences=flags.sequences,
        seconds=flags.seconds,
        processes=flags.processes,
        is_loud=True,
    )
    return 1 if any(batch.failure for batch in batches) else 0


if __name__ == "__main__":
    sys.exit(main())
