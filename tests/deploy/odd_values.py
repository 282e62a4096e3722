"""Values that are allowed and that YAML takes for something else when they stand unquoted."""

import json
import re
from typing import Any, Final

from tests.deploy.chart import CHART

SCHEMA: Final[dict[str, Any]] = json.loads((CHART / "values.schema.json").read_text())
ODD_TEXTS: Final = ("123", "true", "1e3", "a: b")
ODD_NAMES: Final = ("123", "true", "1e3", "0x1f", "null")
"""What releases, namespaces, Secrets and the like may be called."""

KEEP: Final = {
    # Objects that would be elsewhere, or not at all, are tried by themselves.
    *("prometheusRule.onlyRelease", "dashboards.onlyRelease"),
    # These name the objects; a release is called like them, too.
    *("nameOverride", "fullnameOverride", "namespaceOverride"),
    # Excluded by keys.entry, and tried by itself.
    "config.existingConfigMap",
    # The claim would not be made.
    "persistence.existingClaim",
    *("state.existingSecret", "state.entry", "config.state.lease"),
    # What `restricted` does not admit, whatever its text.
    *("podSecurityContext", "securityContext"),
    # Makes sense only beside a kind that is known.
    "persistence.dataSource",
}


def with_odd_texts(odd: str) -> tuple[dict[str, Any], set[str]]:
    """Return values in which every text that the schema lets be `odd` is, and their paths."""
    values: dict[str, Any] = {}
    paths: set[str] = set()
    _fill(values, SCHEMA, "", odd, paths)
    for switch in ("serviceMonitor", "prometheusRule", "dashboards", "networkPolicy"):
        values[switch]["enabled"] = True
    values["serviceMonitor"]["scheme"] = "https"
    values["service"]["type"] = "LoadBalancer"
    values["keys"]["create"] = {values["keys"].get("entry", "api-key"): odd}
    values["config"]["orgs"] = [{"id": odd, "name": odd}]
    values["config"]["api"].pop("key_file")
    return values, paths


def _fill(values: dict[str, Any], schema: Any, path: str, odd: str, paths: set[str]) -> None:  # noqa: ANN401 - JSON
    for key, child in schema["properties"].items():
        name = f"{path}.{key}".removeprefix(".")
        if name in KEEP:
            continue
        described = resolve(child)
        if described.get("type") == "object" and "properties" in described:
            values[key] = {}
            _fill(values[key], described, name, odd, paths)
        elif described.get("type") == "object" and "additionalProperties" in described:
            item = resolve(described["additionalProperties"])
            if _takes(item, odd) and name not in ("keys.create", "prometheusRule.thresholds"):
                values[key] = {"odd": odd}
                paths.add(name)
        elif _takes(described, odd):
            values[key] = odd
            paths.add(name)


def resolve(schema: Any) -> Any:  # noqa: ANN401 - JSON
    """Return what a reference of the schema stands for, or the schema itself."""
    reference = schema.get("$ref") if isinstance(schema, dict) else None
    return SCHEMA["definitions"][reference.rsplit("/", 1)[1]] if reference else schema


def _takes(schema: Any, text: str) -> bool:  # noqa: ANN401 - JSON
    return (
        isinstance(schema, dict)
        and schema.get("type") == "string"
        and "enum" not in schema
        and re.search(schema.get("pattern", ""), text) is not None
    )
