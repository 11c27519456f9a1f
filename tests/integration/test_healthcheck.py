"""The probe of an orchestrator: over mutual TLS, with nothing but the service's own settings."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from provledger.rpc import healthcheck
from provledger.rpc.settings import ServerSettings
from tests.support.certs import CertificateAuthority
from tests.support.echo import EchoServicer, serving


def environment(port: int, config: ServerSettings) -> dict[str, str]:
    files = {name: getattr(config, name) for name in ("tls_cert", "tls_key", "tls_ca")}
    env = {f"PROVLEDGER_ECHO_{name.upper()}": str(path) for name, path in files.items() if path}
    return {**env, "PROVLEDGER_ECHO_PORT": str(port)}


def settings(authority: CertificateAuthority, *dns: str) -> ServerSettings:
    issued = authority.issue("echo", dns=dns)
    return ServerSettings(
        host="0.0.0.0", tls_cert=issued.cert, tls_key=issued.key, tls_ca=issued.ca
    )


async def ask(env: dict[str, str]) -> int:
    return await asyncio.to_thread(healthcheck.main, ["echo"], env)


async def test_serving_not_serving_and_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthcheck, "TIMEOUT_S", 1.0)
    config = settings(CertificateAuthority(tmp_path), "keys.ledgers.svc")
    async with serving(EchoServicer(), config) as server:
        env = environment(server.port, config)
        assert await ask(env) == 0
        server.not_serving()
        assert await ask(env) == 1
    assert await ask(env) == 1


async def test_another_ca_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(healthcheck, "TIMEOUT_S", 1.0)
    config = settings(CertificateAuthority(tmp_path / "a"), "keys.ledgers.svc")
    other = settings(CertificateAuthority(tmp_path / "b"), "keys.ledgers.svc")
    async with serving(EchoServicer(), config) as server:
        assert await ask(environment(server.port, other)) == 1


async def test_without_tls_on_loopback() -> None:
    config = ServerSettings()
    async with serving(EchoServicer(), config) as server:
        assert await ask(environment(server.port, config)) == 0


async def test_settings_that_cannot_be_used_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nameless = settings(CertificateAuthority(tmp_path))
    env = environment(7001, nameless)
    for broken in ({}, {"PROVLEDGER_ECHO_PORT": "x"}, env, {**env, "PROVLEDGER_ECHO_TLS_CA": ""}):
        assert await ask(broken) == 2
    said = capsys.readouterr().err
    assert "no DNS name" in said
    assert "PROVLEDGER_ECHO_PORT is not set" in said
    assert "services are keys, witness, ledger, anchor" in said
    assert "PROVLEDGER_ECHO_PORT is 'x', and no port" in said
    assert "int()" not in said
    assert healthcheck.main([], {}) == 2


async def test_settings_of_a_file_are_found(tmp_path: Path) -> None:
    """As the service finds them; what stands in the environment wins."""
    config = settings(CertificateAuthority(tmp_path), "keys.ledgers.svc")
    async with serving(EchoServicer(), config) as server:
        lines = [
            f'{name} = "{getattr(config, name)}"' for name in ("tls_cert", "tls_key", "tls_ca")
        ]
        file = tmp_path / "provledger.toml"
        file.write_text("\n".join(["[echo]", f"port = {server.port}", 'host = "::"', *lines, ""]))
        env = {"PROVLEDGER_CONFIG": str(file), "PROVLEDGER_ECHO_HOST": "0.0.0.0"}
        assert await ask(env) == 0
        assert await ask({**env, "PROVLEDGER_ECHO_PORT": "x"}) == 2
        file.write_text("no toml")
        assert await ask(env) == 2


@pytest.mark.parametrize("host", ["::1", "localhost", "127.0.0.2", "::"])
async def test_a_service_is_asked_where_it_listens(
    host: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(healthcheck, "TIMEOUT_S", 2.0)
    # A proxy of the environment has no business on this machine.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    config = replace(settings(CertificateAuthority(tmp_path), "keys.ledgers.svc"), host=host)
    async with serving(EchoServicer(), config) as server:
        env = {**environment(server.port, config), "PROVLEDGER_ECHO_HOST": host}
        assert await ask(env) == 0
