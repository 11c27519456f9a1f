"""Principals and allow-lists, without a socket."""

from __future__ import annotations

import datetime as dt
import ipaddress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from provledger.errors import UnauthenticatedError
from provledger.rpc.auth import AllowList, principal_from_auth_context
from provledger.rpc.listener import is_loopback, join_host_port
from provledger.settings import ConfigError

TLS = {"transport_security_type": [b"ssl"]}
KEY = ec.generate_private_key(ec.SECP256R1())
DNS, URI = x509.DNSName, x509.UniformResourceIdentifier
ENDS = dt.datetime(2026, 1, 2, tzinfo=dt.UTC)


def of(*names: x509.GeneralName, common: str = "ledger") -> dict[str, list[bytes]]:
    """What gRPC says of a connection: the certificate whole, its names cut at the first NUL."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(ENDS - dt.timedelta(days=1))
        .not_valid_after(ENDS)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    pem = builder.sign(KEY, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def cut(kind: type[x509.DNSName] | type[x509.UniformResourceIdentifier]) -> list[bytes]:
        return [each.value.encode().split(b"\0")[0] for each in names if isinstance(each, kind)]

    return {
        **TLS,
        "x509_pem_cert": [pem],
        "x509_common_name": [common.encode().split(b"\0")[0]],
        "peer_uri": cut(URI),
        "peer_dns": cut(DNS),
    }


def principal(properties: dict[str, list[bytes]], now: dt.datetime = ENDS) -> str:
    return principal_from_auth_context(properties, now.timestamp)


def test_certificate_counts_until_its_end_also_where_the_connection_goes_on() -> None:
    assert principal(of(DNS("a.example"))) == "a.example"
    with pytest.raises(UnauthenticatedError) as caught:
        principal(of(DNS("a.example")), ENDS + dt.timedelta(seconds=1))
    assert caught.value.reason == "CLIENT_CERTIFICATE_ENDED"


def test_the_first_uri_counts_before_dns_names() -> None:
    both = of(DNS("a.example"), URI("spiffe://e/1"), URI("spiffe://e/2"))
    assert principal(both) == "spiffe://e/1"
    assert principal(of(DNS("a.example"), DNS("b.example"))) == "a.example"


@pytest.mark.parametrize(
    "name",
    [
        x509.IPAddress(ipaddress.ip_address("10.0.0.1")),
        x509.RFC822Name("a@b.example"),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
    ],
)
def test_common_name_counts_only_where_there_are_no_other_names(name: x509.GeneralName) -> None:
    assert principal(of()) == "ledger"
    with pytest.raises(UnauthenticatedError) as caught:
        principal(of(name))
    assert caught.value.reason == "NO_CLIENT_NAME"


@pytest.mark.parametrize(
    ("names", "common"),
    [
        *(
            ([kind(f"{before}{name}")], "ledger")
            for kind, before in ((DNS, ""), (URI, "spiffe://e/"))
            for name in ("a\nb", "x" * 257, "operator.example\0.shop.example", "\0")
        ),
        ([URI("")], "ledger"),
        ([DNS("anonymous")], "ledger"),
        ([DNS("*")], "ledger"),
        # A name of one kind that reads as one of the other.
        ([DNS("spiffe://e/operator")], "ledger"),
        ([URI("operator.example")], "ledger"),
        ([], "spiffe://e/operator"),
        ([], "URN:example:operator"),
        ([], "did:web:operator.example"),
        ([], "spiffe:operator"),
        ([], "operator.example:7003"),
        ([], " spiffe://e/operator"),
        ([DNS("tag:operator")], "ledger"),
        ([DNS("DID:web:operator.example")], "ledger"),
        ([URI(":operator")], "ledger"),
        ([URI("1:operator")], "ledger"),
        ([], "operator\0.shop.example"),
        ([], "a\u202eb"),
        ([], "anonymous"),
    ],
)
def test_unusable_names_are_refused(names: list[x509.GeneralName], common: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        principal(of(*names, common=common))
    assert caught.value.reason == "BAD_CLIENT_NAME"


@pytest.mark.parametrize(
    ("names", "common", "expected"),
    [
        ([URI("did:web:operator.example")], "ledger", "did:web:operator.example"),
        ([URI("tag:operator")], "ledger", "tag:operator"),
        ([], "Operator of the shop", "Operator of the shop"),
        ([], "the operator: Ann", "the operator: Ann"),
    ],
)
def test_a_name_that_begins_as_uris_do_is_a_uri(
    names: list[x509.GeneralName], common: str, expected: str
) -> None:
    assert principal(of(*names, common=common)) == expected


@pytest.mark.parametrize("pem", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_certificate_that_cannot_be_read_is_refused(pem: bytes) -> None:
    with pytest.raises(UnauthenticatedError):
        principal({**TLS, "x509_pem_cert": [pem]})


def test_connection_without_a_certificate_has_no_principal() -> None:
    with pytest.raises(UnauthenticatedError):
        principal(TLS)


def test_connection_without_tls_has_no_principal() -> None:
    with pytest.raises(UnauthenticatedError):
        principal(of() | {"transport_security_type": []})


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
