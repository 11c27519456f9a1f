"""Principals and allow-lists, without a socket."""

from __future__ import annotations

import pytest

from provledger.errors import UnauthenticatedError
from provledger.rpc.auth import AllowList, principal_from_auth_context
from provledger.rpc.listener import is_loopback, join_host_port
from provledger.settings import ConfigError

TLS = {"transport_security_type": [b"ssl"]}


def test_common_name_counts_only_where_there_are_no_other_names() -> None:
    named = {**TLS, "x509_common_name": [b"ledger"]}
    assert principal_from_auth_context(named) == "ledger"
    with pytest.raises(UnauthenticatedError):
        principal_from_auth_context({**named, "x509_subject_alternative_name": [b"10.0.0.1"]})


@pytest.mark.parametrize(
    "name", [b"", b"a\nb", b"\xff", b"x" * 257, b"anonymous", b"*", "a\u202eb".encode()]
)
def test_unusable_names_are_refused(name: bytes) -> None:
    with pytest.raises(UnauthenticatedError):
        principal_from_auth_context({**TLS, "peer_uri": [name]})


def test_connection_without_tls_has_no_principal() -> None:
    with pytest.raises(UnauthenticatedError):
        principal_from_auth_context({"x509_common_name": [b"ledger"]})


def test_most_exact_rule_decides_alone() -> None:
    allow = AllowList({"a.S/M": ["x"], "a.S": ["y", "*"], "*": ["z"]})
    assert allow.callers("/a.S/M") == frozenset({"x"})
    assert allow.callers("/a.S/N") is None
    assert allow.callers("/b.T/M") == frozenset({"z"})
    assert allow.callers("/grpc.health.v1.Health/Check") is None


def test_what_no_rule_matches_is_refused() -> None:
    assert AllowList({"a.S": ["x"]}).callers("/b.T/M") == frozenset()


def test_rules_must_be_about_known_methods() -> None:
    AllowList({"a.S": [], "/a.S/M": [], "*": []}).check_known(["/a.S/M"])
    with pytest.raises(ConfigError, match=r"a\.S/N"):
        AllowList({"a.S/N": []}).check_known(["/a.S/M"])


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_loopback_is_recognised(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "", "no-such-host.invalid"])
def test_everything_else_is_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_addresses_of_both_families_are_joined() -> None:
    assert join_host_port("127.0.0.1", 5) == "127.0.0.1:5"
    assert join_host_port("::1", 5) == "[::1]:5"
