"""What is wrong with TLS to PostgreSQL is told as that; files are where a service finds them."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import create_server

import pytest
import sqlalchemy as sa

from provledger.db import as_storage_error, open_engine
from provledger.errors import StatusError
from provledger.settings import ConfigError
from tests.support.certs import CertificateAuthority


@pytest.fixture
def authority(tmp_path: Path) -> CertificateAuthority:
    return CertificateAuthority(tmp_path / "ca")


@contextmanager
def serving(authority: CertificateAuthority, *, answer: bytes = b"S") -> Iterator[int]:
    """The port of a server that speaks TLS after PostgreSQL's SSLRequest, once, and no more."""
    issued = authority.issue("db", dns=("db.s3cret.test",))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.cert, issued.key)
    context.set_alpn_protocols(["postgresql"])

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):
            connection.settimeout(30)
            connection.recv(8)
            connection.sendall(answer)
            if answer == b"S":
                with context.wrap_socket(connection, server_side=True) as secured:
                    secured.recv(4096)

    with create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        server = threading.Thread(target=serve)
        server.start()
        yield int(listener.getsockname()[1])
        server.join(30)


def refused(port: int, parameters: str) -> StatusError:
    """What a connection ends with."""
    engine = open_engine(
        f"postgresql://s3cret:s3cret@localhost:{port}/d?hostaddr=127.0.0.1&{parameters}"
        "&gssencmode=disable",
        "ledger",
    )
    try:
        with pytest.raises(sa.exc.DBAPIError) as caught:
            engine.connect()
    finally:
        engine.dispose()
    error = as_storage_error(caught.value)
    assert error is not None
    return error


@pytest.mark.parametrize(
    ("parameters", "answer"),
    [
        ("sslmode=verify-full&sslrootcert={ca}", b"S"),  # the name is another one
        ("sslmode=verify-ca&sslrootcert={other}", b"S"),
        ("sslmode=verify-full&sslrootcert=/s3cret/ca.pem", b"S"),
        ("sslmode=verify-full&sslrootcert={none}", b"S"),  # no certificate in it
        ("sslmode=require&sslcert={ca}&sslkey=/s3cret/key.pem", b"S"),
        ("sslmode=require", b"N"),
    ],
)
def test_what_is_wrong_with_tls_is_told(
    tmp_path: Path, authority: CertificateAuthority, parameters: str, answer: bytes
) -> None:
    (tmp_path / "none.pem").write_text("")
    paths = {
        "ca": authority.path,
        "other": CertificateAuthority(tmp_path / "other", "other").path,
        "none": tmp_path / "none.pem",
    }
    with serving(authority, answer=answer) as port:
        error = refused(port, parameters.format(**paths))
    assert (error.code, error.reason) == ("UNAVAILABLE", "DATABASE_UNAVAILABLE")
    assert "TLS to the database server" in error.message
    assert "s3cret" not in error.message


def test_a_server_that_goes_away_is_none_of_tls(authority: CertificateAuthority) -> None:
    with serving(authority, answer=b"") as port:
        error = refused(port, "sslmode=require")
    assert "reached" in error.message


@pytest.mark.parametrize(
    "name", ["sslrootcert", "sslcert", "sslkey", "sslcrl", "sslcrldir", "passfile"]
)
def test_files_by_relative_paths_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*absolute") as caught:
        open_engine(f"postgresql://u@h/d?{name}=s3cret/file", "ledger")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "parameter", ["sslrootcert=system", "sslkey=pkcs11:token=x", "passfile=/x/y", "sslcert="]
)
def test_what_is_no_relative_path_is_taken(parameter: str) -> None:
    open_engine(f"postgresql://u@h/d?{parameter}", "ledger").dispose()
