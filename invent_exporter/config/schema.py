"""All that can be set: each key of the YAML once, with the rule that reads it and its default.

A new key is one `setting` here, in the section's class; `load.py` needs to know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any, Final, TypeVar, dataclass_transform

from invent_exporter.config import state
from invent_exporter.config import values as read
from invent_exporter.config.key import Key
from invent_exporter.config.workflows import EVERY, Workflows
from invent_exporter.config.yaml_nodes import Value

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Setting:
    """Where a field comes from: one of the keys, or over it one of the variables."""

    keys: tuple[str, ...]
    rule: Callable[[Value], object]
    env: tuple[str, ...]
    is_fixed: bool


def setting(
    keys: str,
    rule: Callable[[Value], T],
    *,
    env: str = "",
    is_fixed: bool = False,
    default: T = MISSING,  # type: ignore[assignment]
    **options: Any,  # noqa: ANN401 - those of `dataclasses.field`
) -> T:
    """Declare a field; `keys` and `env` are one or several names between blanks.

    One that `is_fixed` can't change while the exporter runs.
    """
    about = Setting(tuple(keys.split()), rule, tuple(env.split()), is_fixed)
    found: T = field(default=default, metadata={Setting: about}, **options)
    return found


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
def section(kind: type[T]) -> type[T]:
    """Make a frozen dataclass of settings."""
    return dataclass(frozen=True, slots=True, kw_only=True)(kind)


@section
class ApiConfig:
    """How the API is reached; `url` has no trailing slash, `key` is for orgs without their own."""

    url: str = setting(
        "api.url", read.api_url, default="https://api.useinvent.com", env="INVENT_API_URL"
    )
    key: Key | None = setting(
        "api.key api.key_file",
        read.key,
        env="INVENT_API_KEY INVENT_API_KEY_FILE",
        default=None,
        compare=False,  # the orgs hold the keys that count
    )
    timeout_seconds: float = setting("api.timeout", read.duration, default=30.0)
    requests_per_minute: float = setting("api.requests_per_minute", read.positive, default=300.0)
    page_size: int = setting("api.page_size", partial(read.whole, most=100), default=100)
    max_response_bytes: int = setting("api.max_response", read.size, default=16 * 1024**2)


@section
class OrgConfig:
    """One org to poll, with the key that reads it; `c` is the org in which that was made."""

    id: str = setting("orgs[].id", read.org_id, default="c", env="INVENT_ORG_ID")
    name: str | None = setting("orgs[].name", Value.text, default=None)
    key: Key = setting("orgs[].key orgs[].key_file", read.key)
    sub_orgs: bool = setting("orgs[].sub_orgs", read.switch, default=False)
    sub_orgs_interval_seconds: float = setting(
        "orgs[].sub_orgs_interval", partial(read.duration, least=0.1), default=600.0
    )


@section
class MetricsConfig:
    """How runs become series; buckets are upper bounds without +Inf."""

    duration_buckets: tuple[float, ...] = setting(
        "metrics.duration_buckets",
        read.buckets,
        is_fixed=True,
        default=(1, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 86400),
    )
    queue_buckets: tuple[float, ...] = setting(
        "metrics.queue_buckets",
        read.buckets,
        is_fixed=True,
        default=(0.5, 1, 2, 3, 5, 10, 30, 60, 300, 1800, 7200),
    )
    credit_buckets: tuple[float, ...] = setting(
        "metrics.credit_buckets",
        read.buckets,
        is_fixed=True,
        default=(0.1, 1, 2, 5, 10, 20, 50, 100, 500, 1000),
    )
    newborn_hold_seconds: float = setting(
        "metrics.newborn_hold", partial(read.duration, least=0.0), default=65.0
    )
    max_workflows: int = setting("metrics.max_workflows", read.whole, default=1000)
    max_exposition_bytes: int = setting("metrics.max_exposition", read.size, default=64 * 1024**2)
    step_credits: bool = setting("metrics.step_credits", read.switch, default=False)


@section
class Config:
    """All of it. `run_link` is a template: fill its fields with URL-quoted values."""

    api: ApiConfig = ApiConfig()
    orgs: tuple[OrgConfig, ...]
    poll_interval_seconds: float = setting(
        "poll_interval", partial(read.duration, least=0.1), default=30.0
    )
    lookback_seconds: float = setting("lookback", read.duration, default=86400.0)
    reconcile_interval_seconds: float = setting("reconcile_interval", read.duration, default=900.0)
    reconcile_window_seconds: float = setting("reconcile_window", read.duration, default=86400.0)
    state_url: str = setting(
        "state.url",
        state.state_url,
        is_fixed=True,
        default="sqlite:///invent-exporter.db",
        env="INVENT_STATE_URL",
        repr=False,  # it may hold a password
    )
    lease_seconds: float = setting(
        "state.lease", partial(read.duration, least=1.0), is_fixed=True, default=15.0
    )
    metrics: MetricsConfig = MetricsConfig()
    workflow_names: Mapping[str, str] = setting(
        "workflow_names", read.names, default_factory=dict, hash=False
    )
    workflow_labels: Mapping[str, Mapping[str, str]] = setting(
        "workflow_labels", read.labels, default_factory=dict, hash=False
    )
    workflows_include: tuple[str, ...] = setting("workflows.include", read.globs, default=EVERY)
    workflows_exclude: tuple[str, ...] = setting("workflows.exclude", read.globs, default=())
    run_link: str | None = setting("links.run", read.run_link, default=None)
    show_errors: bool = setting("web.show_errors", read.switch, default=True)
    logged_runs: str = setting("log.runs", read.logged_runs, default="failed")

    @property
    def workflows(self) -> Workflows:
        """What is said of workflows."""
        include, exclude = self.workflows_include, self.workflows_exclude
        return Workflows(self.workflow_names, self.workflow_labels, include, exclude)


def keys_of(kind: type) -> Iterator[str]:
    """List the keys of a section and of those in it."""
    for each in fields(kind):
        if is_dataclass(each.default):
            yield from keys_of(type(each.default))
        else:
            yield from each.metadata[Setting].keys if each.metadata else [each.name]


KEYS: Final = (*keys_of(Config), *keys_of(OrgConfig))
"""Every key that is known, in the order in which messages list them."""
