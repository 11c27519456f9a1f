"""Who is calling: the principal of the current RPC, and who may call what.

Without TLS (loopback only) nobody is authenticated and the principal is `anonymous`. With
mutual TLS it is the first URI name of the client certificate (SPIFFE style), else its first DNS
name, else, where the certificate has no such names at all, its common name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from typing import Final

from provledger.errors import PermissionDeniedError, UnauthenticatedError
from provledger.settings import ConfigError

ANONYMOUS: Final = "anonymous"
ANY_CALLER: Final = "*"
HEALTH_SERVICE: Final = "grpc.health.v1.Health"

_principal: ContextVar[str] = ContextVar("provledger_principal", default=ANONYMOUS)

# SAN properties as gRPC names them, in the order in which they are preferred.
_NAME_PROPERTIES: Final = ("peer_uri", "peer_dns")


def current_principal() -> str:
    """Authenticated name of the caller of the RPC being handled, else `anonymous`."""
    return _principal.get()


def set_principal(principal: str) -> None:
    """Set the caller for the running task; for the interceptor and for tests."""
    _principal.set(principal)


def principal_from_auth_context(properties: Mapping[str, Iterable[bytes]]) -> str:
    """Principal of a mutually authenticated connection (gRPC authentication context).

    Raises:
        UnauthenticatedError: no client certificate, or none with a usable name.
    """
    transport = [*properties.get("transport_security_type", ())]
    if not any(value in (b"ssl", b"tls") for value in transport):
        raise UnauthenticatedError("NO_CLIENT_CERTIFICATE", "a client certificate is required")
    for name in _NAME_PROPERTIES:
        for value in properties.get(name, ()):
            return _checked(value)
    if not [*properties.get("x509_subject_alternative_name", ())]:
        for value in properties.get("x509_common_name", ()):
            return _checked(value)
    raise UnauthenticatedError("NO_CLIENT_NAME", "the client certificate names no URI or DNS name")


def _checked(value: bytes) -> str:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = ""
    # A certificate must not be able to pose as nobody, nor to break a log line.
    usable = text.isprintable() and 0 < len(text) <= 256 and text not in (ANONYMOUS, ANY_CALLER)
    if not usable:
        raise UnauthenticatedError("BAD_CLIENT_NAME", "the client certificate's name is not usable")
    return text


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
