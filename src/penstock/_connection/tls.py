"""TLS settings of a URL, and the context that they make."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["TLS_OPTIONS", "Tls", "boolean"]

# What redis-py calls `none`, `optional` and `required`, Celery, Django and Python's ssl
# module call `CERT_NONE` and so on, or by a number.
_CERTIFICATES: Final = {
    "0": ssl.CERT_NONE,
    "1": ssl.CERT_OPTIONAL,
    "2": ssl.CERT_REQUIRED,
    "none": ssl.CERT_NONE,
    "optional": ssl.CERT_OPTIONAL,
    "required": ssl.CERT_REQUIRED,
}


def _certificates(text: str) -> ssl.VerifyMode:
    return _CERTIFICATES[text.lower().rpartition(".")[2].removeprefix("cert_")]


def _flags(text: str) -> ssl.VerifyFlags:
    """Convert `[VERIFY_X509_STRICT, VERIFY_X509_PARTIAL_CHAIN]`, as redis-py does."""
    flags = ssl.VerifyFlags.VERIFY_DEFAULT
    for name in text.strip("[]").split(","):
        flags |= ssl.VerifyFlags[name.strip()]
    return flags


def _version(text: str) -> ssl.TLSVersion:
    return ssl.TLSVersion(int(text))


def boolean(text: str) -> bool:
    """Convert `no`, `false` and the like to False, and all else to True."""
    return text.upper() not in {"0", "F", "FALSE", "N", "NO"}


TLS_OPTIONS: Final[Mapping[str, Callable[[str], Any]]] = {
    "ssl_ca_certs": str,
    "ssl_ca_data": str,
    "ssl_ca_path": str,
    "ssl_cert_reqs": _certificates,
    "ssl_certfile": str,
    "ssl_check_hostname": boolean,
    "ssl_ciphers": str,
    "ssl_exclude_verify_flags": _flags,
    "ssl_include_verify_flags": _flags,
    "ssl_keyfile": str,
    "ssl_min_version": _version,
    "ssl_password": str,
}
"""What converts the text of each option of a URL; it raises ValueError or KeyError."""


@dataclass(frozen=True, slots=True)
class Tls:
    """The TLS settings of a server.

    Attributes:
        options: The options of the URL, without the prefix `ssl_`.
    """

    options: Mapping[str, Any] = field(repr=False)

    @property
    def check_hostname(self) -> bool:
        """Whether the certificate has to be for the URL's host."""
        wanted: bool = self.options.get("check_hostname", True)
        return wanted and self.cert_reqs != ssl.CERT_NONE

    @property
    def cert_reqs(self) -> ssl.VerifyMode:
        """Whether the server needs a certificate that a known authority has signed."""
        found: ssl.VerifyMode = self.options.get("cert_reqs", ssl.CERT_REQUIRED)
        return found

    def context(self) -> ssl.SSLContext:
        """Return a new context: the files may have been replaced since the last one.

        Raises:
            OSError: A file is missing, or is not what it should be.
        """
        get = self.options.get
        context = ssl.create_default_context()
        context.check_hostname = self.check_hostname
        context.verify_mode = self.cert_reqs
        context.verify_flags |= get("include_verify_flags", 0)
        context.verify_flags &= ~get("exclude_verify_flags", 0)
        if certificate := get("certfile") or get("keyfile"):
            # Without a password, OpenSSL would ask for one on the terminal.
            password = get("password") or ""
            context.load_cert_chain(certificate, get("keyfile"), password)
        if get("ca_certs") or get("ca_path") or get("ca_data"):
            context.load_verify_locations(
                get("ca_certs"), get("ca_path"), get("ca_data")
            )
        if version := get("min_version"):
            context.minimum_version = version
        if ciphers := get("ciphers"):
            context.set_ciphers(ciphers)
        return context
