"""TLS contexts, made of a web configuration."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable, Iterator
from ssl import SSLContext, SSLError, TLSVersion, VerifyMode
from tempfile import NamedTemporaryFile
from typing import Any, Self

from invent_exporter.config.web import Pem, TlsConfig
from invent_exporter.errors import ConfigError, escaped, why_unreadable


class CurrentContext(SSLContext):
    """Stands for whichever context is the current one when a connection begins."""

    current: Callable[[], SSLContext]

    @classmethod
    def of(cls, current: Callable[[], SSLContext]) -> Self:
        """Make one that asks `current` for each connection."""
        made = cls(ssl.PROTOCOL_TLS_SERVER)
        made.current = current
        return made

    def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:  # noqa: ANN401 (passed on)
        """Begin a connection, as asyncio does it."""
        return self.current().wrap_bio(*args, **options)


def make_context(tls: TlsConfig) -> SSLContext | None:
    """Read the files that are named; None when there is to be no TLS.

    Raises:
        ConfigError: one of them can't be read or used, in one line that names key and file.

    """
    if tls.certificate is None or tls.key is None:
        return None
    context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version, context.maximum_version = tls.min_version, tls.max_version
    if tls.ciphers:
        of_tls_1_2 = [name for name in tls.ciphers if name]
        if of_tls_1_2:
            context.set_ciphers(":".join(of_tls_1_2))
        else:
            context.minimum_version = TLSVersion.TLSv1_3
    if tls.curve is not None:
        context.set_ecdh_curve(tls.curve)
    if not tls.prefers_own_ciphers:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    with _readable(tls.certificate) as certificate, _readable(tls.key) as key:
        try:
            # Without a password OpenSSL would ask the terminal for one.
            context.load_cert_chain(certificate, key, password="")
        except (SSLError, ValueError) as error:
            raise _refused(tls.certificate, error, "a certificate and the key to it") from None
    if tls.client_ca is not None:
        with _readable(tls.client_ca) as authorities:
            try:
                context.load_verify_locations(authorities)
            except SSLError as error:
                raise _refused(tls.client_ca, error, "certificates of authorities") from None
    context.verify_mode = tls.client_auth or VerifyMode.CERT_NONE
    return context


@contextlib.contextmanager
def _readable(pem: Pem) -> Iterator[str]:
    """Give the path of a file with what is meant, which is all that Python's ssl takes."""
    if pem.path is not None:
        try:
            with pem.path.open("rb"):
                pass
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"{_place(pem)}: {why_unreadable(error)}: expected a file in PEM"
            ) from None
        yield str(pem.path)
        return
    with NamedTemporaryFile() as file:
        file.write(pem.text.encode("utf-8", "surrogatepass"))
        file.flush()
        yield file.name


def _place(pem: Pem) -> str:
    return pem.where if pem.path is None else f"{pem.where}: {escaped(str(pem.path))}"


def _refused(pem: Pem, error: Exception, expected: str) -> ConfigError:
    reason = (getattr(error, "reason", None) or "not readable").lower().replace("_", " ")
    return ConfigError(f"{_place(pem)}: {reason}: expected {expected}, in PEM")
