"""A certificate authority for tests, and a server that speaks TLS."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

from connection.fakes import free_port
from penstock import embedded

DEBIAN = "/usr/bin/redis-server"

_LEAF = """
basicConstraints=critical,CA:FALSE
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid,issuer
subjectAltName=DNS:localhost
"""


class Certificates(NamedTuple):
    """Files: an authority, its server for `localhost`, and an unrelated authority."""

    authority: Path
    certificate: Path
    key: Path
    stranger: Path

    def context(self) -> ssl.SSLContext:
        """Return the context of the server's side, for a fake."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context


def make_certificates(folder: Path) -> Certificates:
    """Create certificates with the openssl tool; skip the test without that."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl tool")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], check=True, cwd=folder, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("authority", "stranger"):
        openssl(
            *("req", "-x509", *key, "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "keyUsage=critical,keyCertSign"),
            *("-keyout", f"{name}.key", "-out", f"{name}.pem"),
        )
    openssl(
        *("req", *key, "-subj", "/CN=localhost"),
        *("-keyout", "server.key", "-out", "server.csr"),
    )
    (folder / "leaf.ext").write_text(_LEAF)
    openssl(
        *("x509", "-req", "-days", "2", "-in", "server.csr", "-out", "server.pem"),
        *("-CA", "authority.pem", "-CAkey", "authority.key", "-CAcreateserial"),
        *("-extfile", "leaf.ext"),
    )
    return Certificates(
        folder / "authority.pem",
        folder / "server.pem",
        folder / "server.key",
        folder / "stranger.pem",
    )


@contextmanager
def tls_server(certificates: Certificates) -> Iterator[tuple[int, int, int]]:
    """Provide a server's TLS port, plain port and process; skip if it has no TLS."""
    if not Path(DEBIAN).exists():
        pytest.skip(f"needs {DEBIAN}, which speaks TLS")
    port, plain = free_port(), free_port()
    config = {
        "tls-port": str(port),
        "tls-cert-file": str(certificates.certificate),
        "tls-key-file": str(certificates.key),
        "tls-ca-cert-file": str(certificates.authority),
        "tls-auth-clients": "no",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PENSTOCK_EMBEDDED_SERVER", DEBIAN)
        server = embedded.EmbeddedServer(config=config, port=plain)
    with server:
        yield port, plain, server.pid
