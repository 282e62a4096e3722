"""The pod security level `restricted`, as a list of what a pod spec does against it.

The rules are those of https://kubernetes.io/docs/concepts/security/pod-security-standards/, level
baseline and restricted, for Linux pods.
"""

from typing import Any, Final

VOLUME_KINDS: Final = {
    *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
    *("persistentVolumeClaim", "projected", "secret"),
}
SECCOMP_TYPES: Final = {"RuntimeDefault", "Localhost"}


def violations(pod: dict[str, Any]) -> list[str]:
    """Return what `restricted` refuses in a pod spec; empty when it is admitted."""
    found = [f"{name} is set" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    for volume in pod.get("volumes", []):
        kind = next(key for key in volume if key != "name")
        if kind not in VOLUME_KINDS:
            found.append(f"volume {volume['name']} is a {kind}")
    pod_context = pod.get("securityContext", {})
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        context = container.get("securityContext", {})
        found += [
            f"container {container['name']}: {what}"
            for what in _container_violations({**pod_context, **context}, context, container)
        ]
    return found


def _container_violations(
    both: dict[str, Any], own: dict[str, Any], container: dict[str, Any]
) -> list[str]:
    capabilities = own.get("capabilities", {})
    checks = {
        "allowPrivilegeEscalation is not false": own.get("allowPrivilegeEscalation") is not False,
        "privileged": bool(own.get("privileged")),
        "does not drop ALL capabilities": "ALL" not in capabilities.get("drop", []),
        "adds capabilities": bool(set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}),
        "runAsNonRoot is not true": both.get("runAsNonRoot") is not True,
        "runs as root": both.get("runAsUser") == 0,
        "no seccomp profile": both.get("seccompProfile", {}).get("type") not in SECCOMP_TYPES,
        "uses a port of the host": any("hostPort" in port for port in container.get("ports", [])),
        "procMount is set": "procMount" in own,
    }
    return [what for what, is_wrong in checks.items() if is_wrong]
