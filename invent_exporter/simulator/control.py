"""The paths under `/_sim/`, by which a test in another process moves the world and asks it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from invent_exporter.simulator.faults import Answer, Fault, error_answer
from invent_exporter.simulator.orgs import Org
from invent_exporter.simulator.runs import Origin, Status, Usage
from invent_exporter.simulator.service import Settings
from invent_exporter.simulator.spoil import SpoilKind

if TYPE_CHECKING:
    from invent_exporter.simulator.service import Request, Service
    from invent_exporter.simulator.world import World

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
    automatic: bool | None = None
    pace: float | None = None


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


def _route(service: Service, request: Request, body: bytes) -> Answer:
    match request.path.removeprefix(PREFIX).split("/"):
        case [name] if (request.method, name) in _ROUTES:
            return _json(_ROUTES[request.method, name](service, request, body))
        case ["orgs", org_id] if request.method == "DELETE":
            service.world.remove_org(org_id)
            return _json({"id": org_id})
        case ["runs", run_id, action] if request.method == "POST" and action in _ACTIONS:
            _ACTIONS[action](service.world, run_id, body or b"{}")
            return _json({"id": run_id})
    return error_answer(404, "not found")


def _tell_truth(service: Service, request: Request, _: bytes) -> object:
    since = request.query.get("since")
    return service.world.truth(None if since is None else float(since))


def _list_requests(service: Service, _: Request, __: bytes) -> object:
    return {"total": service.request_count, "requests": list(service.requests)}


def _list_faults(service: Service, _: Request, __: bytes) -> object:
    return [{"fault": fault, "hits": hits} for fault, hits in service.faults.hits]


def _add_faults(service: Service, _: Request, body: bytes) -> object:
    faults = msgspec.json.decode(body, type=Fault | list[Fault])
    faults = faults if isinstance(faults, list) else [faults]
    service.faults.add(*faults, now=service.world.clock())
    return {}


def _change_settings(service: Service, _: Request, body: bytes) -> object:
    """Change the settings that the body names."""
    now = msgspec.to_builtins(service.settings)
    wanted = now | msgspec.json.decode(body, type=dict[str, object])
    service.settings = msgspec.convert(wanted, Settings)
    return service.settings


def _change_traffic(service: Service, _: Request, body: bytes) -> object:
    world, wanted = service.world, msgspec.json.decode(body, type=_Traffic)
    world.automatic = world.automatic if wanted.automatic is None else wanted.automatic
    world.pace = world.pace if wanted.pace is None else wanted.pace
    return {"automatic": world.automatic, "pace": world.pace}


def _put_org(service: Service, _: Request, body: bytes) -> object:
    """Add the org that the body tells, or change what it tells of one that is there."""
    told = msgspec.json.decode(body, type=dict[str, object])
    known = service.world.find_org(str(told.get("id")))
    org = msgspec.convert(told if known is None else msgspec.structs.asdict(known) | told, Org)
    service.world.add_org(org)
    return org


def _add_runs(service: Service, _: Request, body: bytes) -> object:
    new = msgspec.json.decode(body or b"{}", type=_NewRuns)
    fields = msgspec.structs.asdict(new)
    count = fields.pop("count")
    return {"ids": [service.world.add_run(**fields) for _ in range(count)]}


_ROUTES: dict[tuple[str, str], Callable[[Service, Request, bytes], object]] = {
    ("GET", "truth"): _tell_truth,
    ("GET", "orgs"): lambda service, _, __: service.world.orgs,
    ("POST", "orgs"): _put_org,
    ("GET", "requests"): _list_requests,
    ("DELETE", "requests"): lambda service, _, __: service.forget_requests(),
    ("GET", "faults"): _list_faults,
    ("POST", "faults"): _add_faults,
    ("DELETE", "faults"): lambda service, _, __: service.faults.clear(),
    ("GET", "settings"): lambda service, _, __: service.settings,
    ("POST", "settings"): _change_settings,
    ("POST", "traffic"): _change_traffic,
    ("POST", "runs"): _add_runs,
}


def _start(world: World, run_id: str, body: bytes) -> None:
    world.start_run(run_id, at=msgspec.json.decode(body, type=_Start).at)


def _finish(world: World, run_id: str, body: bytes) -> None:
    end = msgspec.json.decode(body, type=_Finish)
    world.finish_run(run_id, end.status, usage=end.usage, error=end.error, at=end.at)


def _revise(world: World, run_id: str, body: bytes) -> None:
    revision = msgspec.json.decode(body, type=_Revise)
    world.revise_usage(run_id, revision.usage, at=revision.at)


def _spoil(world: World, run_id: str, body: bytes) -> None:
    wish = msgspec.json.decode(body, type=_Spoil)
    world.spoil_run(run_id, wish.kind, mebibytes=wish.mebibytes)


def _set_fields(world: World, run_id: str, body: bytes) -> None:
    world.set_fields(run_id, msgspec.json.decode(body, type=dict[str, object]))


_ACTIONS: dict[str, Callable[[World, str, bytes], None]] = {
    "start": _start,
    "finish": _finish,
    "revise": _revise,
    "spoil": _spoil,
    "fields": _set_fields,
    "remove": lambda world, run_id, _: world.remove_run(run_id),
    "hide": lambda world, run_id, _: world.hide_run(run_id),
    "show": lambda world, run_id, _: world.show_run(run_id),
}


def _json(value: object) -> Answer:
    return Answer(body=msgspec.json.encode(value))
