"""Settings of the ledger service that name tenants or a log: what can be none is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from ledger_svc.config import Settings
from provledger.settings import ConfigError, load

NEEDED = {
    "PROVLEDGER_LEDGER_DATABASE_URL": "sqlite:///x",
    "PROVLEDGER_LEDGER_WITNESS_ENDPOINT": "a:1",
    "PROVLEDGER_LEDGER_ANCHOR_ENDPOINT": "a:1",
}
OWN = "PROVLEDGER_LEDGER_OWN_LOG_TENANTS"
QUOTAS = "PROVLEDGER_LEDGER_TENANT_QUOTAS"
LOG = "PROVLEDGER_LEDGER_LOG_NAME"


@pytest.mark.parametrize(
    "text",
    ["acme beta", "acme;beta", "[acme, beta]", '["acme"]', "tenants/acme", "Acme", "a,b-", "**"],
)
def test_own_logs_for_what_is_no_tenant_are_refused(text: str) -> None:
    """Else a tenant whose name is mistaken would share a log, and could never leave it."""
    with pytest.raises(ConfigError, match=OWN) as caught:
        load(Settings, "ledger", env={**NEEDED, OWN: text})
    assert text not in str(caught.value)


@pytest.mark.parametrize("text", ["acme beta=10", "tenants/acme=10", "Acme=10", "a=1;*.b=2"])
def test_quotas_of_what_is_no_tenant_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=QUOTAS):
        load(Settings, "ledger", env={**NEEDED, QUOTAS: text})


def test_names_of_a_file_are_checked_too(tmp_path: Path) -> None:
    file = tmp_path / "provledger.toml"
    file.write_text('[ledger]\nown_log_tenants = ["acme", "acme beta"]\n')
    with pytest.raises(ConfigError, match=f"{OWN}: name 2 "):
        load(Settings, "ledger", env=NEEDED, file=file)


def test_tenants_and_the_star_are_taken() -> None:
    some = load(Settings, "ledger", env={**NEEDED, OWN: "acme, beta-2 ,", QUOTAS: "acme=5;*=1"})
    assert some.own_log_tenants == ("acme", "beta-2")
    assert dict(some.tenant_quotas) == {"acme": ("5",), "*": ("1",)}
    assert load(Settings, "ledger", env={**NEEDED, OWN: "*"}).own_log_tenants == ("*",)
    assert load(Settings, "ledger", env={**NEEDED, OWN: ""}).own_log_tenants == ()


@pytest.mark.parametrize("text", ["", "main", "logs/", "logs/main", f"logs/{'A' * 32}", "logs/- "])
def test_what_is_no_log_is_refused(text: str) -> None:
    """Else the service starts, and whoever has a ledger made is told that his request is wrong."""
    with pytest.raises(ConfigError, match="PROVLEDGER_LEDGER_LOG_NAME: must look like logs/"):
        load(Settings, "ledger", env={**NEEDED, LOG: text})


@pytest.mark.parametrize("text", ["logs/-", f"logs/{'0a' * 16}"])
def test_a_log_is_taken(text: str) -> None:
    assert load(Settings, "ledger", env={**NEEDED, LOG: text}).log_name == text
