"""The file of --web.config.file: the format of Prometheus' exporter-toolkit, word for word.

What Python's ssl can't do is refused by name: docs/deploy.md, "TLS and passwords", lists it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from ssl import TLSVersion, VerifyMode
from typing import Final, TypeVar

from invent_exporter.config import values as read
from invent_exporter.config.load import build, find_values
from invent_exporter.config.schema import keys_of, section, setting
from invent_exporter.config.yaml_nodes import Value, parse
from invent_exporter.errors import escaped

T = TypeVar("T")

CLIENT_AUTH: Final = {
    "NoClientCert": VerifyMode.CERT_NONE,
    # Nobody looks at a certificate that is asked for and neither required nor verified.
    "RequestClientCert": VerifyMode.CERT_NONE,
    "VerifyClientCertIfGiven": VerifyMode.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": VerifyMode.CERT_REQUIRED,
}
VERSIONS: Final = {"TLS12": TLSVersion.TLSv1_2, "TLS13": TLSVersion.TLSv1_3}
CURVES: Final = {
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
    "X25519": "X25519",
}
CIPHERS: Final = {
    f"TLS_ECDHE_{kind}_WITH_{name}": f"ECDHE-{kind}-{of_openssl}"
    for kind in ("ECDSA", "RSA")
    for name, of_openssl in (
        ("AES_128_CBC_SHA", "AES128-SHA"),
        ("AES_256_CBC_SHA", "AES256-SHA"),
        ("AES_128_GCM_SHA256", "AES128-GCM-SHA256"),
        ("AES_256_GCM_SHA384", "AES256-GCM-SHA384"),
        ("CHACHA20_POLY1305_SHA256", "CHACHA20-POLY1305"),
    )
} | dict.fromkeys(
    # As in Go, TLS 1.3 has all of these, listed or not.
    ("TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"),
    "",
)
HEADERS: Final[Mapping[str, tuple[str, ...]]] = {
    "Content-Security-Policy": (),
    "X-Frame-Options": ("deny", "sameorigin"),
    "X-Content-Type-Options": ("nosniff",),
    "X-XSS-Protection": (),
    "Strict-Transport-Security": (),
}
"""What may be added to answers, with the values that are allowed, if not any."""
_BCRYPT_HASH: Final = re.compile(r"\$2[abxy]\$(0[4-9]|1[0-6])\$[./A-Za-z0-9]{53}")
"""Up to cost 16: 17 would take 8 s of a core for each guess (10: 0.06 s)."""


@dataclass(frozen=True)
class Pem:
    """Certificates or a key, in a file or as text; `where` names the key for messages."""

    where: str
    path: Path | None
    text: str = field(repr=False)


def _pem(value: Value) -> Pem:
    text = value.text(is_secret=True)
    if not text.strip():
        raise value.error(
            "empty: expected certificates or a key, as PEM or the path of such a file"
        )
    if not value.key.endswith("_file"):
        return Pem(value.where, None, text)
    folder = Path() if value.file is None else value.file.parent
    return Pem(value.where, folder / text, "")


def _choice(value: Value, known: Mapping[str, T]) -> T:
    text = value.text(is_any=True)
    if text not in known:
        raise value.error(f"{escaped(text)} can't be had: expected one of {', '.join(known)}")
    return known[text]


def _choices(value: Value, known: Mapping[str, T]) -> tuple[T, ...]:
    return tuple(_choice(item, known) for item in value.items())


def _curve(value: Value) -> str | None:
    curves = _choices(value, CURVES)
    if len(curves) > 1:
        raise value.error("Python's ssl takes one curve: expected a list of one")
    return curves[0] if curves else None


def _sans(value: Value) -> frozenset[str]:
    return frozenset(item.text() for item in value.items())


def _headers(value: Value) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, member in value.members(is_free=True).items():
        if name not in HEADERS:
            raise member.error(f"can't be added to answers: expected one of {', '.join(HEADERS)}")
        text = member.text(is_any=True)
        if not text.isascii() or (text and HEADERS[name] and text not in HEADERS[name]):
            raise member.error(f"expected {' or '.join(HEADERS[name]) or 'plain ASCII'}")
        if text:
            headers[name.lower()] = text
    return headers


def _users(value: Value) -> dict[str, bytes]:
    users: dict[str, bytes] = {}
    for name, member in value.members(is_free=True).items():
        if ":" in name:
            raise member.error("no client can send a colon in a name: expected one without")
        password_hash = member.text(is_secret=True)
        if not _BCRYPT_HASH.fullmatch(password_hash):
            raise member.error('no hash of bcrypt: expected what `htpasswd -nBC 10 ""` writes')
        users[name] = password_hash.encode()
    return users


@section
class TlsConfig:
    """How connections are encrypted, and which clients may come; without certificate: not."""

    certificate: Pem | None = setting(
        "tls_server_config.cert tls_server_config.cert_file", _pem, default=None
    )
    key: Pem | None = setting(
        "tls_server_config.key tls_server_config.key_file", _pem, default=None
    )
    client_ca: Pem | None = setting(
        "tls_server_config.client_ca tls_server_config.client_ca_file", _pem, default=None
    )
    client_auth: VerifyMode | None = setting(
        "tls_server_config.client_auth_type", partial(_choice, known=CLIENT_AUTH), default=None
    )
    client_allowed_sans: frozenset[str] = setting(
        "tls_server_config.client_allowed_sans", _sans, default=frozenset()
    )
    min_version: TLSVersion = setting(
        "tls_server_config.min_version",
        partial(_choice, known=VERSIONS),
        default=TLSVersion.TLSv1_2,
    )
    max_version: TLSVersion = setting(
        "tls_server_config.max_version",
        partial(_choice, known=VERSIONS),
        default=TLSVersion.TLSv1_3,
    )
    ciphers: tuple[str, ...] = setting(
        "tls_server_config.cipher_suites", partial(_choices, known=CIPHERS), default=()
    )
    curve: str | None = setting("tls_server_config.curve_preferences", _curve, default=None)
    prefers_own_ciphers: bool = setting(
        "tls_server_config.prefer_server_cipher_suites", read.switch, default=True
    )


@section
class WebConfig:
    """All of the file; `users` are names with hashes of their passwords."""

    tls: TlsConfig = TlsConfig()
    # There is no HTTP/2 here, and every client that asks for it takes HTTP/1.1.
    http2: bool = setting("http_server_config.http2", read.switch, default=True)
    headers: Mapping[str, str] = setting(
        "http_server_config.headers", _headers, default_factory=dict, hash=False
    )
    users: Mapping[str, bytes] = setting(
        "basic_auth_users", _users, default_factory=dict, hash=False
    )
    request_interval_seconds: float = setting(
        "rate_limit.interval", partial(read.duration, least=0.0), default=0.0
    )
    request_burst: int = setting("rate_limit.burst", read.whole, default=1)


KEYS: Final = tuple(keys_of(WebConfig))


def load_web_config(path: Path) -> WebConfig:
    """Read the file.

    Raises:
        ConfigError: a mistake in it; the files that it names are not looked at.

    """
    given = find_values(parse(path), KEYS)
    config = build(WebConfig, given, {})
    of_tls = [value for key, value in given.items() if key.startswith("tls_server_config.")]
    tls = config.tls
    verifies = tls.client_auth in (VerifyMode.CERT_OPTIONAL, VerifyMode.CERT_REQUIRED)
    problems = {
        "`cert` or `cert_file` is missing: expected one of the two": tls.certificate is None,
        "`key` or `key_file` is missing: expected one of the two": tls.key is None,
        "client certificates without a policy: expected client_auth_type as well": (
            tls.client_ca is not None and tls.client_auth is None
        ),
        "a client can't be verified: expected client_ca or client_ca_file": (
            verifies and tls.client_ca is None
        ),
        "names of clients can't be checked: expected RequireAndVerifyClientCert": (
            bool(tls.client_allowed_sans) and tls.client_auth is not VerifyMode.CERT_REQUIRED
        ),
        "the versions leave none: expected min_version up to max_version": (
            tls.min_version > tls.max_version
        ),
    }
    for problem, is_there in problems.items():
        if of_tls and is_there:
            raise of_tls[0].error(problem)
    return config
