"""Many finished runs at once, for benchmarks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from invent_exporter.simulator.runs import Run, Usage, make_shape

if TYPE_CHECKING:
    from invent_exporter.simulator.world import World

_FAILED_EVERY = 10


def add_many(
    world: World,
    count: int,
    *,
    org_id: str | None = None,
    workflows: int = 8,
    seconds: float = 3600.0,
    output_bytes: int = 300,
    steps: int = 4,
    prefix: str = "bulk",
) -> None:
    """Add finished runs that were created evenly over the last `seconds` of the world's clock.

    Every tenth FAILED, the others are COMPLETED. `output_bytes` and `steps` set the size of a
    run's JSON; a second call for the same world needs another `prefix` for the ids.
    """
    with world.lock:
        now = world.clock()
        org = world.orgs[0].id if org_id is None else org_id
        usage = Usage(2.0, 0.5, {"step_1": 1.5, "step_2": 0.5})
        shapes = [
            make_shape(f"wf-{number}", steps=steps, output_bytes=output_bytes, version=1)
            for number in range(workflows)
        ]
        runs = []
        for number in range(count):
            created_at = round(now - seconds + seconds * number / count, 3)
            is_failed = number % _FAILED_EVERY == _FAILED_EVERY - 1
            run = Run(
                id=f"{prefix}_{number:08x}",
                status="FAILED" if is_failed else "COMPLETED",
                origin="TRIGGER",
                created_at=created_at,
                started_at=created_at + 0.25,
                ended_at=created_at + 1.5,
                updated_at=created_at + 1.5,
                org_id=org,
                workflow_id=f"wf-{number % workflows}",
                error="Error: simulated" if is_failed else None,
                usages=(usage,),
                listed_in=(org,),
                shape=shapes[number % workflows],
                sequence=number,
                first_final="FAILED" if is_failed else "COMPLETED",
                final_at=max(now, created_at),
            )
            runs.append(run)
        world.add_finished(runs)
