"""Mutual TLS and allow-lists, with real certificates over real sockets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger import errors
from provledger.rpc.channel import call, channel
from provledger.rpc.server import Server, ServerSettings
from provledger.rpc.tls import TLSSettings, renewed
from provledger.settings import ConfigError
from provledger_cli.failures import advice
from tests.support.certs import CertificateAuthority
from tests.support.echo import SERVICE, EchoServicer, EchoStub, serving

pytestmark = pytest.mark.usefixtures("either_server")


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CertificateAuthority:
    return CertificateAuthority(tmp_path_factory.mktemp("ca"))


def settings(tls: TLSSettings, allowed: Mapping[str, tuple[str, ...]] | None = None):
    return ServerSettings(
        tls_cert=tls.cert, tls_key=tls.key, tls_ca=tls.ca, allowed_callers=allowed or {}
    )


async def ask(
    port: int, tls: TLSSettings | None, method: str = "WhoAmI", *, host: str = "localhost"
) -> bytes:
    async with channel(f"{host}:{port}", tls) as open_channel:
        stub = EchoStub(open_channel)
        answer: bytes = await call(getattr(stub, method), b"x", timeout_s=10, idempotent=False)
        return answer


async def test_principal_is_the_first_uri_then_dns_then_common_name(
    ca: CertificateAuthority,
) -> None:
    both = ca.issue("a", uris=("spiffe://x/ledger", "spiffe://x/other"), dns=("ledger.x",))
    dns = ca.issue("b", dns=("ledger.x", "other.x"))
    name = ca.issue("ledger")
    async with serving(EchoServicer(), settings(ca.server())) as server:
        assert await ask(server.port, both) == b"spiffe://x/ledger"
        assert await ask(server.port, dns) == b"ledger.x"
        assert await ask(server.port, name) == b"ledger"


async def test_without_tls_everybody_is_anonymous() -> None:
    async with serving(EchoServicer()) as server:
        assert await ask(server.port, None) == b"anonymous"


@pytest.mark.parametrize("common_name", ["anonymous", "*"])
async def test_certificate_cannot_pose_as_nobody(
    ca: CertificateAuthority, common_name: str
) -> None:
    async with serving(EchoServicer(), settings(ca.server())) as server:
        with pytest.raises(errors.UnauthenticatedError):
            await ask(server.port, ca.issue(common_name))


@pytest.mark.parametrize("kind", ["dns", "uris", "common"])
async def test_name_with_a_nul_is_not_the_name_before_it(
    ca: CertificateAuthority, kind: str
) -> None:
    """A CA that signs names below orders' domain signs this one, too."""
    operator = "spiffe://x/operator" if kind == "uris" else "operator.x"
    name = f"{operator}\0.orders.shop.example"
    more: dict[str, Any] = {} if kind == "common" else {kind: (name,)}
    odd = ca.issue(name if kind == "common" else f"orders-{kind}", **more)
    async with serving(EchoServicer(), settings(ca.server(), {"*": (operator,)})) as server:
        with pytest.raises(errors.UnauthenticatedError) as caught:
            await ask(server.port, odd)
    assert caught.value.reason == "BAD_CLIENT_NAME"


async def test_certificate_with_only_an_address_names_nobody(ca: CertificateAuthority) -> None:
    async with serving(EchoServicer(), settings(ca.server())) as server:
        with pytest.raises(errors.UnauthenticatedError) as caught:
            await ask(server.port, ca.issue("somebody", ips=("127.0.0.1",)))
    assert caught.value.reason == "NO_CLIENT_NAME"


async def test_client_of_another_authority_or_of_none_is_turned_away(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    stranger = CertificateAuthority(tmp_path, "stranger").issue("ledger")
    async with serving(EchoServicer(), settings(ca.server())) as server:
        for tls in (
            None,
            TLSSettings(stranger.cert, stranger.key, ca.path),  # trusts us, we do not trust it
            stranger,  # does not even trust us
        ):
            with pytest.raises(errors.UnavailableError):
                await ask(server.port, tls)


async def test_a_server_of_another_name_than_the_one_dialled_must_have_the_expected_one(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    """As at the end of a port-forward; each in the order in which a connection could be kept."""
    caller = ca.issue("caller")
    demo = ca.issue("demo", dns=("demo-keys", "demo-keys.ns.svc"))
    other = CertificateAuthority(tmp_path, "other").issue("demo", dns=("demo-keys",))
    async with serving(EchoServicer(), settings(demo)) as server:
        for name in ("demo-keys", "demo-keys.ns.svc"):
            assert await ask(server.port, caller, host=f"{name}@127.0.0.1") == b"caller"
        for host in ("127.0.0.1", "demo-ledger@127.0.0.1", "demo@127.0.0.1", "127.0.0.1@127.0.0.1"):
            with pytest.raises(errors.UnavailableError) as caught:
                await ask(server.port, caller, host=host)
            assert "NAME@HOST:PORT" in advice(caught.value)
        assert await ask(server.port, caller, host="demo-keys@127.0.0.1") == b"caller"
    # The name alone is not enough: it must be of the CA.
    stranger = TLSSettings(other.cert, other.key, ca.path)
    async with serving(EchoServicer(), settings(stranger)) as server:
        with pytest.raises(errors.UnavailableError) as caught:
            await ask(server.port, caller, host="demo-keys@127.0.0.1")
        assert "NAME@HOST:PORT" not in advice(caught.value)


async def test_allow_list_decides_by_the_most_exact_rule(ca: CertificateAuthority) -> None:
    rules = {f"{SERVICE}/WhoAmI": ("cli",), SERVICE: ("ledger",)}
    ledger, cli = ca.issue("ledger"), ca.issue("cli")
    async with serving(EchoServicer(), settings(ca.server(), rules)) as server:
        assert await ask(server.port, cli) == b"cli"
        assert await ask(server.port, ledger, "Echo") == b"x"
        for tls, method in ((ledger, "WhoAmI"), (cli, "Echo")):
            with pytest.raises(errors.PermissionDeniedError) as caught:
                await ask(server.port, tls, method)
            assert caught.value.reason == "CALLER_NOT_ALLOWED"
            assert caught.value.metadata["method"] == f"{SERVICE}/{method}"


async def test_health_is_open_to_any_authenticated_caller(ca: CertificateAuthority) -> None:
    rules = {SERVICE: ("ledger",)}
    async with (
        serving(EchoServicer(), settings(ca.server(), rules)) as server,
        channel(f"localhost:{server.port}", ca.issue("probe")) as open_channel,
    ):
        stub: Any = health_pb2_grpc.HealthStub(open_channel)
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=SERVICE), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_allow_list_with_an_unknown_rpc_is_refused(ca: CertificateAuthority) -> None:
    server = Server(settings(ca.server(), {f"{SERVICE}/Ehco": ("ledger",)}))
    with pytest.raises(ConfigError, match="Ehco"):
        await server.start()


def test_allow_list_without_tls_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs TLS"):
        Server(ServerSettings(allowed_callers={SERVICE: ("ledger",)}))


SECT163K1 = (
    "-----BEGIN EC PRIVATE KEY-----\n"
    "MFMCAQEEFQLkY47bp7fTCxziDMnHJk1DdQpmGaAHBgUrgQQAAaEuAywABAMrLCaT\n"
    "T+z6ks3n5yHZtXTQbH//1ADqEEjujGmf3JxYFqjOyT9XplggmQ==\n"
    "-----END EC PRIVATE KEY-----\n"
)
"""A key on a curve that the library does not know."""


@pytest.mark.parametrize(
    "damage", ["missing", "not pem", "other key", "encrypted", "no cert", "unknown curve"]
)
async def test_unusable_files_are_named(
    ca: CertificateAuthority, tmp_path: Path, damage: str
) -> None:
    good = ca.server("damaged")
    broken = tmp_path / "broken.pem"
    tls = TLSSettings(good.cert, broken, good.ca)
    if damage == "not pem":
        broken.write_text("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
    elif damage == "other key":
        broken.write_bytes(ca.issue("other").key.read_bytes())
    elif damage == "encrypted":
        broken.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAAA\n-----END")
    elif damage == "unknown curve":
        broken.write_text(SECT163K1)
    elif damage == "no cert":
        broken.write_text("nothing")
        tls = TLSSettings(broken, good.key, good.ca)
    with pytest.raises(ConfigError, match="broken"):
        channel("localhost:1", tls)


GOOD_KINDS: dict[str, Callable[[], Any]] = {
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
}
OTHER_KINDS: dict[str, Callable[[], Any]] = {
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("kind", GOOD_KINDS)
async def test_keys_of_these_kinds_connect(ca: CertificateAuthority, kind: str) -> None:
    ours = ca.issue(f"server-{kind}", dns=("localhost",), key=GOOD_KINDS[kind]())
    theirs = ca.issue(f"client-{kind}", key=GOOD_KINDS[kind]())
    async with serving(EchoServicer(), settings(ours)) as server:
        assert await ask(server.port, theirs) == f"client-{kind}".encode()


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_keys_with_which_no_handshake_succeeds_are_refused(
    ca: CertificateAuthority, kind: str
) -> None:
    """Else a service starts, and says that it is ready to nobody."""
    tls = ca.issue(f"odd-{kind}", dns=("localhost",), key=OTHER_KINDS[kind]())
    with pytest.raises(ConfigError, match=f"odd-{kind}.pem: .* P-256"):
        renewed(tls)


async def test_paths_may_be_text(ca: CertificateAuthority) -> None:
    tls = ca.issue("text")
    given: Any = [str(path) for path in (tls.cert, tls.key, tls.ca)]
    async with serving(EchoServicer(), settings(ca.server())) as server:
        assert await ask(server.port, TLSSettings(*given)) == b"text"


def test_half_configured_tls_says_what_is_missing(ca: CertificateAuthority) -> None:
    with pytest.raises(ConfigError, match="tls_key, tls_ca"):
        Server(ServerSettings(tls_cert=ca.path))


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "no-such-host.invalid"])
def test_reachable_address_without_tls_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="tls_cert"):
        Server(ServerSettings(host=host))


async def test_reachable_address_with_tls_is_served(ca: CertificateAuthority) -> None:
    tls = ca.server("wide")
    config = ServerSettings(host="0.0.0.0", tls_cert=tls.cert, tls_key=tls.key, tls_ca=tls.ca)
    async with serving(EchoServicer(), config) as server:
        assert await ask(server.port, ca.issue("ledger")) == b"ledger"


async def test_who_fails_at_tls_is_not_told_to_start_the_service(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    """A wrong CA, a foreign certificate, no TLS where it is asked for, and TLS where it is not."""
    other, ours = CertificateAuthority(tmp_path).issue("other"), ca.issue("client-of-ours")
    async with (
        serving(EchoServicer(), settings(ca.server())) as server,
        serving(EchoServicer()) as in_clear,
    ):
        for port, tls in (
            (server.port, TLSSettings(ours.cert, ours.key, other.ca)),
            (server.port, TLSSettings(other.cert, other.key, ours.ca)),
            (server.port, None),
            (in_clear.port, ours),
        ):
            with pytest.raises(errors.UnavailableError) as caught:
                await ask(port, tls)
            assert "--tls-cert, --tls-key and --tls-ca" in advice(caught.value)
    with pytest.raises(errors.UnavailableError) as caught:
        await ask(server.port, ours)
    assert "--tls" not in advice(caught.value)
    assert "provledger up" in advice(caught.value)
