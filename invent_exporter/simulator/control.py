"""The paths under `/_sim/`, by which a test in another process moves the world and asks it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from invent_exporter.simulator.faults import Answer, Fault, error_answer
from invent_exporter.simulator.runs import Origin, Status, Usage
from invent_exporter.simulator.service import Settings
from invent_exporter.simulator.spoil import SpoilKind

if TYPE_CHECKING:
    from invent_exporter.simulator.service import Request, Service

PREFIX = "/_sim/"


class _Body(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A body whose unknown keys are errors."""


class _NewRuns(_Body):
    count: int = 1
    org_id: str | None = None
    workflow_id: str | None = "wf-manual"
    origin: Origin = "WORKFLOW"
    status: Status = "PENDING"
    created_at: float | None = None
    started_at: float | None = None
    ended_at: float | None = None
    updated_at: float | None = None
    usage: Usage | None = None
    error: str | None = None
    version: int = 1
    also_in: tuple[str, ...] = ()
    hidden: bool = False
    fields: dict[str, object] = {}
    spoiled: SpoilKind | None = None


class _Start(_Body):
    at: float | None = None


class _Finish(_Body):
    status: Status = "COMPLETED"
    usage: Usage | None = None
    error: str | None = None
    at: float | None = None


class _Revise(_Body):
    usage: Usage
    at: float | None = None


class _Spoil(_Body):
    kind: SpoilKind | None = None
    mebibytes: float = 32.0


class _Traffic(_Body):
    automatic: bool | msgspec.UnsetType = msgspec.UNSET
    pace: float | msgspec.UnsetType = msgspec.UNSET


def control(service: Service, request: Request, body: bytes) -> Answer:
    """Answer a request under `/_sim/`; 400 says what is wrong with its body."""
    try:
        with service.world.lock:
            service.world.advance()
            return _route(service, request, body)
    except (msgspec.DecodeError, msgspec.ValidationError, ValueError) as error:
        return error_answer(400, str(error))
    except KeyError as error:
        return error_answer(404, f"there is no {error}")


def _route(service: Service, request: Request, body: bytes) -> Answer:  # noqa: PLR0911 - routes
    world = service.world
    match request.method, request.path.removeprefix(PREFIX).split("/"):
        case "GET", ["truth"]:
            since = request.query.get("since")
            return _json(world.truth(None if since is None else float(since)))
        case "GET", ["orgs"]:
            return _json(world.orgs)
        case "GET", ["requests"]:
            return _json({"total": service.request_count, "requests": list(service.requests)})
        case "DELETE", ["requests"]:
            service.requests.clear()
            service.request_count = 0
            return _json({})
        case "GET", ["faults"]:
            return _json([{"fault": fault, "hits": hits} for fault, hits in service.faults.hits])
        case "POST", ["faults"]:
            faults = msgspec.json.decode(body, type=Fault | list[Fault])
            service.faults.add(*(faults if isinstance(faults, list) else [faults]), now=world.clock())
            return _json({})
        case "DELETE", ["faults"]:
            service.faults.clear()
            return _json({})
        case "GET", ["settings"]:
            return _json(service.settings)
        case "POST", ["settings"]:
            return _change_settings(service, body)
        case "POST", ["traffic"]:
            wanted = msgspec.json.decode(body, type=_Traffic)
            if wanted.automatic is not msgspec.UNSET:
                world.automatic = wanted.automatic
            if wanted.pace is not msgspec.UNSET:
                world.pace = wanted.pace
            return _json({"automatic": world.automatic, "pace": world.pace})
        case "POST", ["runs"]:
            return _add_runs(service, body)
        case "POST", ["runs", run_id, action]:
            return _act(service, run_id, action, body or b"{}")
    return error_answer(404, "not found")


def _change_settings(service: Service, body: bytes) -> Answer:
    """Change the settings that the body names."""
    now = msgspec.to_builtins(service.settings)
    changed = msgspec.convert(now | msgspec.json.decode(body, type=dict[str, object]), Settings)
    service.settings = changed
    return _json(changed)


def _add_runs(service: Service, body: bytes) -> Answer:
    new = msgspec.json.decode(body or b"{}", type=_NewRuns)
    fields = msgspec.structs.asdict(new)
    count = fields.pop("count")
    return _json({"ids": [service.world.add_run(**fields) for _ in range(count)]})


def _act(service: Service, run_id: str, action: str, body: bytes) -> Answer:
    world = service.world
    match action:
        case "start":
            world.start_run(run_id, at=msgspec.json.decode(body, type=_Start).at)
        case "finish":
            end = msgspec.json.decode(body, type=_Finish)
            world.finish_run(run_id, end.status, usage=end.usage, error=end.error, at=end.at)
        case "revise":
            revision = msgspec.json.decode(body, type=_Revise)
            world.revise_usage(run_id, revision.usage, at=revision.at)
        case "spoil":
            wish = msgspec.json.decode(body, type=_Spoil)
            world.spoil_run(run_id, wish.kind, mebibytes=wish.mebibytes)
        case "fields":
            world.set_fields(run_id, msgspec.json.decode(body, type=dict[str, object]))
        case "remove":
            world.remove_run(run_id)
        case "hide":
            world.hide_run(run_id)
        case "show":
            world.show_run(run_id)
        case _:
            return error_answer(404, f"no such action: {action}")
    return _json({"id": run_id})


def _json(value: object) -> Answer:
    return Answer(body=msgspec.json.encode(value))
