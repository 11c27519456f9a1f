"""Who is calling: the principal of the current RPC, and who may call what.

Without TLS (loopback only) nobody is authenticated and the principal is `anonymous`. With
mutual TLS it is the first URI name of the client certificate (SPIFFE style), else its first DNS
name, else, where the certificate has no alternative names at all, its common name.

The names are read from the certificate itself: gRPC hands them on as C strings, which end at the
first NUL, so that `operator.example\\0.shop.example` would be `operator.example`.

TLS looks at the time of a certificate when a connection begins, and not when one goes on or a
session is resumed (RFC 8446 §2.2). So its end is looked at with every call, and streams are ended
by it (`certificate_ends`).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID

from provledger.errors import PermissionDeniedError, UnauthenticatedError
from provledger.settings import ConfigError

ANONYMOUS: Final = "anonymous"
ANY_CALLER: Final = "*"
HEALTH_SERVICE: Final = "grpc.health.v1.Health"

_principal: ContextVar[str] = ContextVar("provledger_principal", default=ANONYMOUS)

_MAX_CERTIFICATES: Final = 4096
"""How many certificates' principals are remembered, so that a call does not parse one again."""
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
"""What every URI begins with (RFC 3986 §3.1), and hardly anything else: `did:web:a.example`."""
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


def current_principal() -> str:
    """Authenticated name of the caller of the RPC being handled, else `anonymous`."""
    return _principal.get()


def set_principal(principal: str) -> None:
    """Set the caller for the running task; for the interceptor and for tests."""
    _principal.set(principal)


def principal_from_auth_context(
    properties: Mapping[str, Iterable[bytes]], clock: Callable[[], float] = time.time
) -> str:
    """Principal of a mutually authenticated connection (gRPC authentication context).

    clock: seconds since 1970.

    Raises:
        UnauthenticatedError: no client certificate, none with a usable name, or one that has ended.
    """
    principal, ends_s = _caller(properties)
    if clock() > ends_s:
        raise certificate_ended()
    return principal


def certificate_ends_s(properties: Mapping[str, Iterable[bytes]]) -> float:
    """Last second of the client certificate of a connection, since 1970.

    Raises:
        UnauthenticatedError: there is none, or none with a usable name.
    """
    return _caller(properties)[1]


def certificate_ended() -> UnauthenticatedError:
    """What calls are refused and streams ended with once it has."""
    return UnauthenticatedError(
        "CLIENT_CERTIFICATE_ENDED", "the client certificate is not valid any longer"
    )


def _caller(properties: Mapping[str, Iterable[bytes]]) -> tuple[str, float]:
    transport = [*properties.get("transport_security_type", ())]
    if not any(value in (b"ssl", b"tls") for value in transport):
        raise UnauthenticatedError("NO_CLIENT_CERTIFICATE", "a client certificate is required")
    for pem in properties.get("x509_pem_cert", ()):
        return _principal_of(pem)
    raise UnauthenticatedError("NO_CLIENT_CERTIFICATE", "a client certificate is required")


@lru_cache(maxsize=_MAX_CERTIFICATES)
def _principal_of(pem: bytes) -> tuple[str, float]:
    """Of a certificate that was verified the principal, and its last second since 1970.

    Raises:
        UnauthenticatedError: it has no usable name.
    """
    uris: Sequence[str]
    hosts: Sequence[str | bytes]
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        ends_s = certificate.not_valid_after_utc.timestamp()
        extension = x509.SubjectAlternativeName
        try:
            others = certificate.extensions.get_extension_for_class(extension).value
        except x509.ExtensionNotFound:
            common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
            uris, hosts = [], [each.value for each in common]
        else:
            uris = others.get_values_for_type(x509.UniformResourceIdentifier)
            hosts = others.get_values_for_type(x509.DNSName)
    except _UNREADABLE as error:
        raise _bad_name() from error
    if uris:
        return _checked(uris[0], uri=True), ends_s
    if hosts:
        return _checked(hosts[0], uri=False), ends_s
    raise UnauthenticatedError("NO_CLIENT_NAME", "the client certificate names no URI or DNS name")


def _checked(name: str | bytes, *, uri: bool) -> str:
    # A certificate must not be able to pose as nobody, nor to break a log line.
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name) <= 256:
        raise _bad_name()
    # Nor may one kind of name pose as the other: who issues the one may not check the other.
    has_scheme = _SCHEME.match(name) is not None
    if name in (ANONYMOUS, ANY_CALLER) or has_scheme != uri:
        raise _bad_name()
    if not uri and "://" in name:
        raise _bad_name()
    return name


def _bad_name() -> UnauthenticatedError:
    return UnauthenticatedError("BAD_CLIENT_NAME", "the client certificate's name is not usable")


class AllowList:
    """Who may call which RPC.

    Rules map a method (`pkg.Service/Method`), a service (`pkg.Service`) or `*` to principals;
    the most exact rule decides alone; `*` among the principals admits any caller. What no rule
    matches is refused. Health checks are always allowed.
    """

    def __init__(self, rules: Mapping[str, Iterable[str]]) -> None:
        self._rules = {key.lstrip("/"): frozenset(names) for key, names in rules.items()}

    def callers(self, method: str) -> frozenset[str] | None:
        """Principals that may call `method` (`/pkg.Service/Method`); None means everybody."""
        name = method.lstrip("/")
        service = name.partition("/")[0]
        if service == HEALTH_SERVICE:
            return None
        for key in (name, service, "*"):
            if key in self._rules:
                names = self._rules[key]
                return None if ANY_CALLER in names else names
        return frozenset()

    def check_known(self, methods: Iterable[str]) -> None:
        """Refuse rules about methods that this server does not have.

        Raises:
            ConfigError: naming the rule.
        """
        names = {method.lstrip("/") for method in methods}
        known = names | {name.partition("/")[0] for name in names} | {"*"}
        for key in self._rules:
            if key not in known:
                raise ConfigError(f"allowed_callers: {key!r} is no RPC or service of this server")


def refuse(principal: str, method: str) -> PermissionDeniedError:
    """The error for a caller that is not on the list of `method`."""
    name = method.lstrip("/")
    return PermissionDeniedError(
        "CALLER_NOT_ALLOWED",
        f"{principal} may not call {name}",
        metadata={"principal": principal, "method": name},
    )
