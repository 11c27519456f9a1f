"""Services do not start with endpoints that nobody could dial."""

from __future__ import annotations

from typing import Any

import pytest

import anchor_svc.config
import gateway_svc.config
import ledger_svc.config
import witness_svc.config
from provledger.settings import ConfigError, load

SETTINGS: dict[str, type[Any]] = {
    "witness": witness_svc.config.Settings,
    "ledger": ledger_svc.config.Settings,
    "anchor": anchor_svc.config.Settings,
    "gateway": gateway_svc.config.Settings,
}
ENDPOINTS = [
    ("witness", "keys_endpoint"),
    ("ledger", "witness_endpoint"),
    ("ledger", "anchor_endpoint"),
    ("ledger", "keys_endpoint"),
    ("anchor", "keys_endpoint"),
    ("gateway", "anchor_endpoint"),
    ("gateway", "keys_endpoint"),
]
NEEDED = {
    "witness": ("keys_endpoint", "key_dir"),
    "ledger": ("database_url", "witness_endpoint", "anchor_endpoint"),
    "anchor": ("database_url", "data_dir", "keys_endpoint", "key_dir"),
    "gateway": (),
}


def loaded(service: str, setting: str, endpoint: str) -> Any:
    texts = dict.fromkeys(NEEDED[service], "127.0.0.1:7001") | {setting: endpoint}
    env = {f"PROVLEDGER_{service}_{name}".upper(): text for name, text in texts.items()}
    return getattr(load(SETTINGS[service], service, env=env), setting)


@pytest.mark.parametrize("endpoint", ["localhost", "plaintext:", "keys:", "http://keys:7001"])
@pytest.mark.parametrize(("service", "setting"), ENDPOINTS)
def test_an_endpoint_that_is_none_is_refused_by_name(
    service: str, setting: str, endpoint: str
) -> None:
    with pytest.raises(ConfigError, match=f"PROVLEDGER_{service}_{setting}: ".upper()):
        loaded(service, setting, endpoint)


def test_none_is_needed_but_those_that_are() -> None:
    with pytest.raises(ConfigError, match="PROVLEDGER_WITNESS_KEYS_ENDPOINT: "):
        loaded("witness", "keys_endpoint", "")
    assert loaded("ledger", "keys_endpoint", "") is None


@pytest.mark.parametrize(
    "endpoint",
    [
        "127.0.0.1:7001",
        "[::1]:7001",
        "plaintext:keys.mesh:7001",
        "demo-keys@127.0.0.1:7001",
        "unix:/run/keys.sock",
        "dns:///keys:7001",
        "ipv4:10.0.0.1:7001,10.0.0.2:7001",
    ],
)
@pytest.mark.parametrize(("service", "setting"), ENDPOINTS)
def test_targets_of_grpc_are_taken(service: str, setting: str, endpoint: str) -> None:
    assert loaded(service, setting, endpoint) == endpoint
