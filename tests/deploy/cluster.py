"""A real Kubernetes API server on the loopback, with PodSecurity and the operator's CRDs.

There is no kubelet and no controller: objects are validated, admitted and stored, no pod runs.
"""

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import yaml

from tests.deploy.chart import Manifest
from tests.deploy.go_modules import module_folder
from tests.deploy.processes import Server
from tests.process.harness import free_port, wait_for
from tests.programs import require, run

OPERATOR: Final = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
"""Where the schemas of ServiceMonitor, PodMonitor and PrometheusRule come from."""

OPERATOR_PLURALS: Final = ("servicemonitors", "podmonitors", "prometheusrules")

_RESTRICTED: Final = {
    f"{mode}{suffix}": value
    for mode in ("enforce", "audit", "warn")
    for suffix, value in (("", "restricted"), ("-version", "latest"))
}
_ADMISSION: Final = {
    "apiVersion": "apiserver.config.k8s.io/v1",
    "kind": "AdmissionConfiguration",
    "plugins": [
        {
            "name": "PodSecurity",
            "configuration": {
                "apiVersion": "pod-security.admission.config.k8s.io/v1",
                "kind": "PodSecurityConfiguration",
                "defaults": _RESTRICTED,
            },
        }
    ],
}
_PATHS: Final = {
    "ConfigMap": "api/v1/{}/configmaps",
    "Deployment": "apis/apps/v1/{}/deployments",
    "NetworkPolicy": "apis/networking.k8s.io/v1/{}/networkpolicies",
    "PersistentVolumeClaim": "api/v1/{}/persistentvolumeclaims",
    "Pod": "api/v1/{}/pods",
    "PodDisruptionBudget": "apis/policy/v1/{}/poddisruptionbudgets",
    "PodMonitor": "apis/monitoring.coreos.com/v1/{}/podmonitors",
    "PrometheusRule": "apis/monitoring.coreos.com/v1/{}/prometheusrules",
    "Secret": "api/v1/{}/secrets",
    "Service": "api/v1/{}/services",
    "ServiceAccount": "api/v1/{}/serviceaccounts",
    "ServiceMonitor": "apis/monitoring.coreos.com/v1/{}/servicemonitors",
}


class ApiServer(Server):
    """kube-apiserver, and what is asked of it as its administrator."""

    def __init__(self, folder: Path, etcd_port: int) -> None:
        """Prepare keys and configuration in the folder."""
        self._token = secrets.token_hex(16)
        self._folder = folder
        self.kubeconfig = folder / "kubeconfig"
        (folder / "tokens.csv").write_text(f"{self._token},admin,admin,system:masters\n")
        (folder / "admission.json").write_text(json.dumps(_ADMISSION))
        key = folder / "accounts.key"
        subprocess.run(
            [require("openssl"), "genrsa", "-out", key, "2048"], check=True, capture_output=True
        )
        port = free_port()
        command = (
            require("kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{etcd_port}",
            *("--bind-address=127.0.0.1", f"--secure-port={port}", f"--cert-dir={folder}/certs"),
            # Nothing registers itself where clusters are looked for.
            *("--advertise-address=192.0.2.1", "--endpoint-reconciler-type=none"),
            *("--service-cluster-ip-range=10.96.0.0/16", f"--token-auth-file={folder}/tokens.csv"),
            f"--admission-control-config-file={folder}/admission.json",
            # It waits for tokens, which a controller would make.
            "--disable-admission-plugins=ServiceAccount",
            "--service-account-issuer=https://kubernetes.default.svc",
            *(f"--service-account-key-file={key}", f"--service-account-signing-key-file={key}"),
        )
        super().__init__(command, port, "/readyz", folder / "kube-apiserver.log")
        self._write_kubeconfig()

    def _write_kubeconfig(self) -> None:
        cluster = {"server": f"https://127.0.0.1:{self.port}", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "admin", "user": {"token": self._token}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
            "current-context": "test",
        }
        self.kubeconfig.write_text(json.dumps(config))
        self.kubeconfig.chmod(0o600)

    def ask(
        self, method: str, path: str, body: object = None, kind: str = "application/json"
    ) -> httpx.Response:
        """Send a request with the administrator's token."""
        return httpx.request(
            method,
            f"https://127.0.0.1:{self.port}{path}",
            content=None if body is None else json.dumps(body),
            headers={"Authorization": f"Bearer {self._token}", "Content-Type": kind},
            timeout=60,
            verify=False,  # noqa: S501 - the certificate was made by itself, on the loopback
            trust_env=False,
        )

    def get(self, path: str, **parameters: str) -> httpx.Response:
        """Ask it."""
        return self.ask("GET", str(httpx.URL(path, params=parameters)))

    def make(self, path: str, item: Manifest) -> Manifest:
        """Create an object; it must be admitted."""
        answer = self.ask("POST", path, item)
        assert answer.is_success, answer.text
        made: Manifest = answer.json()
        return made

    def make_namespace(self, name: str) -> None:
        """Create a namespace unless it is there."""
        answer = self.ask("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        assert answer.is_success or answer.json()["reason"] == "AlreadyExists", answer.text

    def objects(self, kind: str, namespace: str) -> dict[str, Manifest]:
        """Return the objects of a kind by their names."""
        answer = self.get("/" + _PATHS[kind].format(f"namespaces/{namespace}"))
        assert answer.is_success, answer.text
        return {item["metadata"]["name"]: item for item in answer.json()["items"]}

    def stored(self, manifests: tuple[Manifest, ...]) -> list[Manifest]:
        """Return what is stored of each object, who set what and when included."""
        found = (
            self.objects(item["kind"], item["metadata"]["namespace"])[item["metadata"]["name"]]
            for item in manifests
        )
        return [_without_version(item) for item in found]

    def apply(self, item: Manifest) -> Manifest:
        """Apply an object on the server's side, as Argo CD, Flux and `kubectl` do."""
        metadata = item["metadata"]
        path = "/" + _PATHS[item["kind"]].format(f"namespaces/{metadata['namespace']}")
        answer = self.ask(
            "PATCH",
            f"{path}/{metadata['name']}?fieldManager=test&force=true&fieldValidation=Strict",
            item,
            "application/apply-patch+yaml",
        )
        assert answer.is_success, answer.text
        return _without_version(answer.json())

    def helm(self, program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run Helm against it and return what it said, whatever its exit status."""
        home = {f"HELM_{name}_HOME": str(self._folder) for name in ("CACHE", "CONFIG", "DATA")}
        return run(program, *arguments, "--kubeconfig", self.kubeconfig, env=home)


def _without_version(item: Manifest) -> Manifest:
    """Leave out what counts writes: the first update of a claim is one, though nothing changes."""
    metadata = {k: v for k, v in item["metadata"].items() if k != "resourceVersion"}
    return {**item, "metadata": metadata}


def _etcd(folder: Path) -> Server:
    port, peer = free_port(), f"http://127.0.0.1:{free_port()}"
    client = f"http://127.0.0.1:{port}"
    command = (
        *(require("etcd"), f"--data-dir={folder}/etcd"),
        *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
        *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
        f"--initial-cluster=default={peer}",
    )
    return Server(command, port, "/health", folder / "etcd.log")


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[ApiServer]:
    """Run etcd and an API server that knows the operator's kinds."""
    require("kube-apiserver")
    with _etcd(folder) as etcd, ApiServer(folder, etcd.port) as server:
        for definition in operator_definitions():
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            server.make(path, definition)
        for plural in OPERATOR_PLURALS:
            path = f"/apis/monitoring.coreos.com/v1/{plural}"
            wait_for(f"{plural} are served", lambda path=path: server.get(path).is_success)  # type: ignore[misc]
        yield server


def operator_definitions() -> Iterator[dict[str, Any]]:
    """Yield the operator's CRDs of the kinds that the chart makes."""
    folder = module_folder(OPERATOR) / "example" / "prometheus-operator-crd"
    for plural in OPERATOR_PLURALS:
        text = (folder / f"monitoring.coreos.com_{plural}.yaml").read_text()
        definition: dict[str, Any] = yaml.load(text, Loader=yaml.CSafeLoader)
        yield definition
