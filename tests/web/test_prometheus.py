"""A real Prometheus scrapes over TLS, with a login and a client certificate."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import bcrypt
import pytest
import yaml

from invent_exporter.simulator import SimulatorServer, quiet_world
from tests.deploy.processes import prometheus
from tests.process.harness import Exporter, make_config, wait_for
from tests.web.certificates import Authority, Pair

SCRAPES = 5
"""While certificates change."""
SCRAPE_SECONDS = 3.0
"""A scrape has as long."""


def job(
    name: str, port: int, password: str, authority: Authority, client: Pair | None
) -> dict[str, object]:
    """Write a job that scrapes the exporter."""
    tls = {"ca_file": str(authority.own.certificate)}
    if client is not None:
        tls |= {"cert_file": str(client.certificate), "key_file": str(client.key)}
    return {
        "job_name": name,
        "scrape_interval": f"{SCRAPE_SECONDS:g}s",
        "scheme": "https",
        "basic_auth": {"username": "prometheus", "password": password},
        "tls_config": tls,
        "static_configs": [{"targets": [f"localhost:{port}"]}],
    }


def certificate_of(port: int, authority: Authority, client: Pair) -> str:
    """Begin a connection; return the serial number of the server's certificate."""
    with (
        socket.create_connection(("localhost", port)) as raw,
        authority.trusting(client).wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        return str((wrapped.getpeercert() or {})["serialNumber"])


@pytest.mark.system
def test_prometheus_scrapes_with_login_and_client_certificate(tmp_path: Path) -> None:
    """Wrong ones are refused, and no scrape fails while certificates change."""
    authority, another = Authority(tmp_path), Authority(tmp_path, "another")
    _, client = authority.issue("server"), authority.issue("client")
    web = {
        "tls_server_config": {
            "cert_file": "server.pem",
            "key_file": "server.key",
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": "authority.pem",
        },
        "basic_auth_users": {
            "prometheus": bcrypt.hashpw(b"right", bcrypt.gensalt(10)).decode(),
        },
    }
    (tmp_path / "web.yaml").write_text(yaml.safe_dump(web))
    with (
        SimulatorServer(quiet_world()) as api,
        Exporter(
            tmp_path,
            make_config(api.url, tmp_path),
            arguments=[
                f"--web.config.file={tmp_path}/web.yaml",
                f"--web.health-address=unix://{tmp_path}/health.sock",
            ],
        ) as exporter,
    ):
        port = int(exporter.url.rpartition(":")[2])
        jobs = [
            job("right", port, "right", authority, client),
            job("wrong-password", port, "wrong", authority, client),
            job("no-certificate", port, "right", authority, None),
            job("stranger", port, "right", authority, another.issue("stranger")),
        ]
        with prometheus(tmp_path, {"scrape_configs": jobs}) as scraping:

            def scrapes(query: str) -> dict[str, int]:
                found = scraping.data("/api/v1/query", query=query)["result"]
                return {each["metric"]["job"]: int(each["value"][1]) for each in found}

            wait_for("every job has scraped", lambda: len(scrapes("up")) == len(jobs))
            wait_for("the right one has", lambda: scrapes("invent_up").get("right") is not None)
            since = time.monotonic()  # the first login may wait for those that fail
            begun = scrapes("count_over_time(up[5m])")["right"]
            serials = {certificate_of(port, authority, client)}

            def begins_with_a_new_one() -> bool:
                serial = certificate_of(port, authority, client)
                is_new = serial not in serials
                serials.add(serial)
                return is_new

            while scrapes("count_over_time(up[5m])")["right"] < begun + SCRAPES:
                authority.issue("server")
                wait_for("connections begin with the new certificate", begins_with_a_new_one)
            window = f"{time.monotonic() - since:.0f}s"
            assert scrapes(f"max_over_time(up[{window}])") == {
                "right": 1,
                "wrong-password": 0,
                "no-certificate": 0,
                "stranger": 0,
            }
            assert "right" not in scraping.failed_scrapes(window, SCRAPE_SECONDS)
