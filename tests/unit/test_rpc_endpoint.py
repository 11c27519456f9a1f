"""Nothing is sent in clear beyond loopback, unless the endpoint says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from provledger.client import AsyncClient, Client
from provledger.keyring import KeyRing
from provledger.rpc.channel import channel, sync_channel
from provledger.rpc.endpoint import grpc_target, is_local, server_name
from provledger.rpc.tls import TLSSettings
from provledger.settings import ConfigError
from provledger_cli.connect import target
from provledger_cli.failures import CommandError
from tests.support.certs import CertificateAuthority

FAR = "ledger.example:7003"


@pytest.mark.parametrize(
    "endpoint",
    [
        *("127.0.0.1:7003", "127.8.8.8:7003", "[::1]:7003", "localhost:7003", "LOCALHOST:7003"),
        *("dns:localhost:7003", "dns:///127.0.0.1:7003", "dns://10.0.0.53/localhost:7003"),
        *("ipv4:127.0.0.1:1,127.0.0.2:1", "ipv6:[::1]:7003", "unix:/run/ledger", "unix:ledger"),
        *("unix:///run/ledger", "unix-abstract:ledger", "127.0.0.1", "::1"),
    ],
)
def test_addresses_of_this_machine_are_called_in_clear(endpoint: str) -> None:
    assert is_local(endpoint)
    assert grpc_target(endpoint, tls=False) == endpoint


@pytest.mark.parametrize(
    "endpoint",
    [
        *(FAR, "ledger:7003", "10.0.0.1:7003", "0.0.0.0:7003", "[::]:7003", "[fe80::1]:7003"),
        *("dns:///ledger.example:7003", "dns://127.0.0.1/ledger.example:7003", "dns:127.0.0.1.x:1"),
        *("ipv4:127.0.0.1:1,10.0.0.1:1", "ipv6:[::1]:1,[fd00::1]:1", "localhost.example:7003"),
        *("127.0.0.1.example:7003", "[::1].example:7003x", "UNIX:7003", "xds:///localhost", ""),
        *("localhost%2eexample:7003", "dns:///localhost%2eexample:7003", "vsock:2:7003", ":7003"),
    ],
)
def test_everything_else_is_refused_without_tls(endpoint: str) -> None:
    with pytest.raises(ConfigError, match="without TLS"):
        grpc_target(endpoint, tls=False)
    assert grpc_target(endpoint, tls=True) == endpoint


def test_an_endpoint_may_say_that_the_way_is_encrypted_by_something_else() -> None:
    assert grpc_target(f"plaintext:{FAR}", tls=False) == FAR
    with pytest.raises(ConfigError, match="TLS is set"):
        grpc_target(f"plaintext:{FAR}", tls=True)


@pytest.mark.parametrize("dialled", ["127.0.0.1:7001", "[::1]:7001", FAR, "dns:///localhost:1"])
def test_an_endpoint_may_name_the_certificate_that_is_expected_there(dialled: str) -> None:
    endpoint = f"demo-provledger-keys.ns.svc@{dialled}"
    assert server_name(endpoint) == "demo-provledger-keys.ns.svc"
    assert grpc_target(endpoint, tls=True) == dialled
    assert server_name(dialled) == ""
    # Without TLS nobody would look at the certificate.
    with pytest.raises(ConfigError, match="TLS"):
        grpc_target(endpoint, tls=False)


@pytest.mark.parametrize("endpoint", ["@h:1", "*.x@h:1", "a b@h:1", "a..b@h:1", ".@h:1", "a\0@h:1"])
def test_what_is_no_name_of_a_certificate_is_refused(endpoint: str) -> None:
    for read in (server_name, lambda each: grpc_target(each, tls=True)):
        with pytest.raises(ConfigError, match="no name of a certificate"):
            read(endpoint)


@pytest.mark.parametrize("endpoint", ["unix:/run/a@b", "unix:///run/a@b", "unix-abstract:a@b"])
def test_sockets_may_have_an_at_in_their_name(endpoint: str) -> None:
    assert server_name(endpoint) == ""
    assert grpc_target(endpoint, tls=False) == endpoint


def test_a_certificate_is_expected_with_tls_only() -> None:
    for endpoint in ("plaintext:demo@h:1", "demo@plaintext:h:1"):
        for tls in (False, True):
            with pytest.raises(ConfigError, match="TLS"):
                grpc_target(endpoint, tls=tls)


async def test_channels_the_client_and_key_rings_refuse(tmp_path: Path) -> None:
    tls = CertificateAuthority(tmp_path).issue("caller")
    for make in (channel, sync_channel):
        with pytest.raises(ConfigError, match=FAR):
            make(FAR)
    with sync_channel(FAR, tls), sync_channel(f"plaintext:{FAR}"):
        pass
    with pytest.raises(ConfigError, match=FAR):
        AsyncClient(FAR)
    with pytest.raises(ConfigError, match=FAR):
        AsyncClient("127.0.0.1:1", keys_endpoint=FAR)
    await AsyncClient(FAR, tls=tls).close()
    await AsyncClient(f"plaintext:{FAR}", keys_endpoint="127.0.0.1:1").close()

    async def never(uri: str) -> None:
        raise AssertionError(uri)

    ring = KeyRing(FAR, ["witness"], never, watcher="test")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=FAR):
        await ring.start()


@pytest.mark.parametrize("scheme", ["http://", "https://", "grpc://", "HTTP://"])
async def test_a_url_is_refused_as_one_and_no_advice_makes_it_worse(
    tmp_path: Path, scheme: str
) -> None:
    for url in (f"{scheme}127.0.0.1:40025", f"plaintext:{scheme}127.0.0.1:40025"):
        with pytest.raises(ConfigError, match=f"HOST:PORT, without {scheme}") as refused:
            grpc_target(url, tls=False)
        assert "plaintext:" not in str(refused.value).replace(url, "")
        with pytest.raises(CommandError, match=f"HOST:PORT, without {scheme}"):
            target(tmp_path, [f"keys={url}"])
        for make in (Client, AsyncClient):
            with pytest.raises(ConfigError, match="is a URL"):
                make(url)
    with pytest.raises(CommandError, match="is a URL"):
        target(tmp_path, [f"gateway={scheme}127.0.0.1:8080"])


@pytest.mark.parametrize(
    "endpoint",
    ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.1:", "localhost:http", ":7003", "a b:1"],
)
async def test_the_client_refuses_what_has_no_port_before_it_dials(endpoint: str) -> None:
    for make in (Client, AsyncClient):
        with pytest.raises(ConfigError, match="is not HOST:PORT"):
            make(endpoint)
        with pytest.raises(ConfigError, match="is not HOST:PORT"):
            make("127.0.0.1:1", keys_endpoint=endpoint)


@pytest.mark.parametrize(
    "endpoint",
    [
        *("127.0.0.1:65536", "localhost:72539", "[::1]:65537", "127.0.0.1:0", "127.0.0.1:00000"),
        *("plaintext:ledger.mesh:72539", "ipv4:127.0.0.1:1,127.0.0.2:65536", "127.0.0.1:100000"),
        *("dns:///localhost:72539", f"127.0.0.1:{'9' * 5000}"),
    ],
)
async def test_a_port_that_there_is_not_is_refused_before_it_is_dialled(
    tmp_path: Path, endpoint: str
) -> None:
    """gRPC dials it modulo 65536: what listens there need not even be ours."""
    for make in (Client, AsyncClient):
        with pytest.raises(ConfigError, match="port must be within"):
            make(endpoint)
        with pytest.raises(ConfigError, match="port must be within"):
            make("127.0.0.1:1", keys_endpoint=endpoint)
    with pytest.raises(ConfigError, match="port must be within"):
        channel(endpoint)
    with pytest.raises(CommandError, match="port must be within"):
        target(tmp_path, [f"gateway={endpoint}"])
    with pytest.raises(ConfigError, match="port must be within"):
        grpc_target(f"demo@{endpoint.removeprefix('plaintext:')}", tls=True)


@pytest.mark.parametrize(
    "endpoint",
    [
        *("127.0.0.1:7003", "[::1]:7003", "localhost:7003", "plaintext:ledger.mesh:7003"),
        *("127.0.0.1:65535", "unix:/run/ledger:70000", "unix-abstract:ledger:0"),
        *("unix:/run/a@b", "unix-abstract:ledger", "dns:///localhost", "ipv6:[::1]:7003"),
    ],
)
async def test_the_client_takes_every_form_that_is_dialled(endpoint: str) -> None:
    await AsyncClient(endpoint, keys_endpoint=endpoint).close()


def test_commands_refuse_and_name_the_options(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=FAR) as caught:
        target(tmp_path, ["127.0.0.1:1", f"keys={FAR}"])
    assert "--tls-cert" in caught.value.hint
    assert target(tmp_path, [f"keys=plaintext:{FAR}"]).addresses == {"keys": f"plaintext:{FAR}"}
    # What a gateway serves is public.
    assert target(tmp_path, ["gateway=gateway.example:80"]).addresses
    with pytest.raises(CommandError, match="TLS"):
        target(tmp_path, ["keys=demo-keys@127.0.0.1:1"])
    with pytest.raises(CommandError, match="HOST:PORT"):
        target(tmp_path, ["gateway=demo-gateway@127.0.0.1:1"])
    tls = CertificateAuthority(tmp_path).issue("caller")
    with_tls = target(tmp_path, [FAR], tls_cert=tls.cert, tls_key=tls.key, tls_ca=tls.ca)
    assert with_tls.tls == TLSSettings(tls.cert, tls.key, tls.ca)
