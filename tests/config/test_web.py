"""The web configuration is exporter-toolkit's, and each mistake in it is one line."""

from __future__ import annotations

from pathlib import Path
from ssl import TLSVersion, VerifyMode

import pytest

from invent_exporter.config.web import KEYS, Pem, TlsConfig, WebConfig, load_web_config
from invent_exporter.errors import ConfigError

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
"""As the toolkit's documentation shows it."""

WHOLE = f"""\
tls_server_config:
  cert_file: server.crt
  key: |
    -----BEGIN PRIVATE KEY-----
  client_auth_type: RequireAndVerifyClientCert
  client_ca_file: /etc/ca.crt
  client_allowed_sans: [prometheus.example, 192.0.2.1]
  min_version: TLS12
  max_version: TLS12
  cipher_suites: [TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_AES_128_GCM_SHA256]
  prefer_server_cipher_suites: false
  curve_preferences: [CurveP256]
http_server_config:
  http2: false
  headers:
    X-Frame-Options: deny
    X-XSS-Protection: 0
    Content-Security-Policy: ""
basic_auth_users:
  alice: {HASH}
  "42": {HASH}
rate_limit:
  interval: 500ms
  burst: 20
"""


def write(folder: Path, text: str) -> Path:
    """Write the file."""
    path = folder / "web.yaml"
    path.write_text(text)
    return path


def test_every_key_is_read(tmp_path: Path) -> None:
    """Paths are relative to the file; what is left out has the toolkit's default."""
    path = write(tmp_path, WHOLE)
    where = f"{path}:2: tls_server_config.cert_file"
    tls = load_web_config(path).tls
    assert tls.certificate == Pem(where, tmp_path / "server.crt", "")
    assert tls.key is not None
    assert (tls.key.path, tls.key.text) == (None, "-----BEGIN PRIVATE KEY-----\n")
    assert tls.client_ca is not None
    assert tls.client_ca.path == Path("/etc/ca.crt")
    assert load_web_config(path) == WebConfig(
        tls=TlsConfig(
            certificate=tls.certificate,
            key=tls.key,
            client_ca=tls.client_ca,
            client_auth=VerifyMode.CERT_REQUIRED,
            client_allowed_sans=frozenset({"prometheus.example", "192.0.2.1"}),
            min_version=TLSVersion.TLSv1_2,
            max_version=TLSVersion.TLSv1_2,
            ciphers=("ECDHE-RSA-AES128-GCM-SHA256", ""),
            curve="prime256v1",
            prefers_own_ciphers=False,
        ),
        http2=False,
        headers={"x-frame-options": "deny", "x-xss-protection": "0"},
        users={"alice": HASH.encode(), "42": HASH.encode()},
        request_interval_seconds=0.5,
        request_burst=20,
    )
    inline = {"tls_server_config.cert", "tls_server_config.key_file", "tls_server_config.client_ca"}
    told = {key for key in KEYS if key.rpartition(".")[2] + ":" in WHOLE}
    assert told | inline == set(KEYS)
    assert load_web_config(write(tmp_path, "")) == WebConfig()


def test_documented_example_is_taken(tmp_path: Path) -> None:
    """What docs/deploy.md shows is a whole file."""
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text()
    example = page.split("## TLS and passwords")[1].split("```yaml\n")[1].split("```")[0]
    config = load_web_config(write(tmp_path, example))
    assert (config.users, config.tls.client_auth) == (
        {"prometheus": HASH.encode()},
        VerifyMode.CERT_REQUIRED,
    )


TLS = "tls_server_config: {cert_file: a, key_file: b, "


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tls_config: {}", "1: tls_config: unknown key: did you mean `tls_server_config`?"),
        ("\ntls_server_config:\n  cert-file: x", "3: tls_server_config.cert-file: unknown key"),
        ("tls_server_config: {cert_file: a}", "cert_file: `key` or `key_file` is missing"),
        ("tls_server_config: {min_version: TLS12}", "`cert` or `cert_file` is missing"),
        (TLS + "cert: c}", "tls_server_config.cert is given as well"),
        (TLS + "cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]}", "AES_128_CBC_SHA can't be had"),
        (TLS + "curve_preferences: [CurveP256, X25519]}", "Python's ssl takes one curve"),
        (TLS + "curve_preferences: [P256]}", "P256 can't be had: expected one of CurveP256, Cur"),
        (TLS + "min_version: TLS10}", "min_version: TLS10 can't be had: expected one of TLS12, TL"),
        (TLS + "min_version: TLS13, max_version: TLS12}", "the versions leave none"),
        (TLS + "client_auth_type: RequireAnyClientCert}", "RequireAnyClientCert can't be had"),
        (
            TLS + "client_auth_type: RequireAndVerifyClientCert}",
            "expected client_ca or client_ca_f",
        ),
        (TLS + "client_ca_file: c}", "expected client_auth_type as well"),
        (
            TLS
            + "client_ca_file: c, client_allowed_sans: [x], client_auth_type: RequestClientCert}",
            "expected RequireAndVerifyClientCert",
        ),
        (TLS + 'client_ca: ""}', "client_ca: empty: expected certificates or a key"),
        ("http_server_config: {headers: {Server: x}}", "headers.Server: can't be added"),
        ("http_server_config: {headers: {X-Frame-Options: no}}", "expected deny or sameorigin"),
        ("http_server_config: {headers: {X-XSS-Protection: é}}", "expected plain ASCII"),
        ("basic_auth_users: {alice: secret}", "1: basic_auth_users.alice: no hash of bcrypt"),
        (f"basic_auth_users: {{a: {HASH.replace('$10$', '$17$')}}}", "no hash of bcrypt"),
        (f'basic_auth_users: {{"a:b": {HASH}}}', "no client can send a colon"),
        ("rate_limit: {burst: 0}", "rate_limit.burst: 0 does not fit"),
        ("rate_limit: {interval: 1}", "rate_limit.interval: 1 has no unit"),
    ],
)
def test_mistake_is_one_line_with_file_line_and_key(tmp_path: Path, text: str, said: str) -> None:
    """What is known of the toolkit and can't be had here is refused by name; no secret is told."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_web_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:")
    assert said in message
    assert "expected" in message or "did you mean" in message
    assert "secret" not in message
    assert "\n" not in message
