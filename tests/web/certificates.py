"""Authorities and certificates for tests, made by OpenSSL."""

from __future__ import annotations

import os
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.programs import require


@dataclass(frozen=True)
class Pair:
    """A certificate and its key."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates for names."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        self._folder = folder
        self.name = name
        self.own = self._make(name, "")

    def issue(self, name: str, names: str = "DNS:localhost,IP:127.0.0.1") -> Pair:
        """Make a certificate; `names` as OpenSSL writes them. One of that name is replaced."""
        signer = ("-CA", str(self.own.certificate), "-CAkey", str(self.own.key))
        return self._make(name, names, *signer)

    def trusting(self, client: Pair | None = None) -> ssl.SSLContext:
        """Make what a client needs to trust the server, and to be trusted."""
        context = ssl.create_default_context(cafile=self.own.certificate)
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context

    def _make(self, name: str, names: str, *signer: str) -> Pair:
        pair = Pair(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        command = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1"
        subject = ["-keyout", "new.key", "-out", "new.pem", "-subj", f"/CN={name}", *signer]
        if names:
            subject += ["-addext", f"subjectAltName={names}"]
        subprocess.run(
            [str(require("openssl")), *command.split(), *subject],
            cwd=self._folder,
            check=True,
            capture_output=True,
        )
        os.replace(self._folder / "new.key", pair.key)  # noqa: PTH105 -- as those do that rotate them
        os.replace(self._folder / "new.pem", pair.certificate)  # noqa: PTH105
        return pair
