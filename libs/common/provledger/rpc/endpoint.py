"""Where calls go, whether they may go there in clear, and whose certificate is expected there.

::

    127.0.0.1:7001           loopback: in clear, or over TLS
    ledger.example:7003      over TLS only
    plaintext:ledger.mesh:7003   in clear, for something else encrypts the way (a service mesh)
    demo-ledger@127.0.0.1:7003   over TLS, at the other end of a tunnel: the certificate there must
                             have the name demo-ledger, and not the one that is dialled

As a server refuses to listen beyond loopback without TLS (`listener.check_bind`), nothing is sent
beyond it without TLS, unless the endpoint itself says so. A name is not looked up for this: what
it leads to now is not what gRPC finds later.

A certificate is checked in the same way whoever is expected: it must be of our CA, and have that
name.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from provledger.settings import ConfigError

PLAINTEXT: Final = "plaintext:"
_SOCKETS: Final = ("unix", "unix-abstract")
_ADDRESSES: Final = ("ipv4", "ipv6")
# Schemes of gRPC Name Resolution, which have rules of their own for what follows.
_SCHEMES: Final = (*_SOCKETS, *_ADDRESSES, "dns", "vsock", "xds")
_URL: Final = re.compile(r"(?:https?|grpcs?)://", re.IGNORECASE)
# What ends with digits there is a path, a name or a number of more bits.
_PORTLESS: Final = (*_SOCKETS, "vsock", "xds")
# Of an IPv6 address without brackets, what follows its "::" is none.
_PORT: Final = re.compile(r"(?<=[^:]):([0-9]+)\Z", re.ASCII)
MAX_PORT: Final = 65_535
_HOST_PORT: Final = re.compile(r"(?:[^\s:/\[\]]+|\[[0-9A-Fa-f:.%]+\]):[0-9]{1,5}", re.ASCII)
# A DNS name or an address, as a certificate has it (RFC 9525 §6.1); no wildcard.
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


def grpc_target(endpoint: str, *, tls: bool) -> str:
    """What gRPC takes for an endpoint.

    Raises:
        ConfigError: calls would go in clear beyond loopback; or the endpoint says that they are to,
            and TLS is set; or it says whose certificate is expected, and TLS is not set; or it is
            a URL, or its port none.
    """
    check_no_url(endpoint)
    check_port(endpoint)
    name, dialled = _parts(endpoint)
    if name and not tls:
        raise ConfigError(
            f"{endpoint!r} names a certificate: it is called with TLS, which is not set"
        )
    target = dialled.removeprefix(PLAINTEXT)
    if tls:
        if target != dialled:
            raise ConfigError(f"{endpoint!r} is to be called without TLS, but TLS is set")
    elif target == dialled and not is_local(target):
        raise ConfigError(
            f"refusing to call {endpoint!r} without TLS: give a certificate, its key and a CA; or, "
            f"where something else encrypts the way there, {PLAINTEXT + endpoint!r}"
        )
    return target


def check_endpoint(endpoint: str) -> None:
    """Check the form of an endpoint that somebody gave: a port is in it, and no scheme of a URL.

    gRPC would take 443 for a port that was left out, and dial it until the time is up.

    Raises:
        ConfigError: it is neither HOST:PORT nor another target that gRPC knows (`unix:`, `dns:`),
            or there is no such port.
    """
    check_no_url(endpoint)
    check_port(endpoint)
    target = _parts(endpoint)[1].removeprefix(PLAINTEXT)
    if target.partition(":")[0] in _SCHEMES and ":" in target:
        return
    if _HOST_PORT.fullmatch(target) is None:
        raise ConfigError(f"{endpoint!r} is not HOST:PORT, such as 127.0.0.1:7003")


def check_no_url(endpoint: str) -> None:
    """Raise ConfigError for what begins like a URL."""
    found = _URL.search(endpoint)
    if found is not None:
        raise ConfigError(f"{endpoint!r} is a URL: give HOST:PORT, without {found[0]}")


def check_port(endpoint: str) -> None:
    """Raise ConfigError where the port is not one of 1 to 65535.

    gRPC would dial what is left of a larger one in 16 bits: another service, perhaps.
    """
    target = _parts(endpoint)[1].removeprefix(PLAINTEXT)
    if target.partition(":")[0] in _PORTLESS:
        return
    for address in target.split(","):
        port = _PORT.search(address)
        if port is not None and not (len(port[1]) <= 5 and 1 <= int(port[1]) <= MAX_PORT):
            raise ConfigError(f"{endpoint!r}: the port must be within 1 and {MAX_PORT}")


def server_name(endpoint: str) -> str:
    """The name that the certificate at an endpoint must have; "" for the one that is dialled.

    Raises:
        ConfigError: it is none that a certificate could have.
    """
    return _parts(endpoint)[0]


def _parts(endpoint: str) -> tuple[str, str]:
    """The name before the `@`, and what is dialled."""
    scheme = PLAINTEXT if endpoint.startswith(PLAINTEXT) else ""
    name, at, dialled = endpoint.removeprefix(scheme).partition("@")
    # Behind a scheme (`unix:`), or within a path, it is part of the target.
    if not at or ":" in name or "/" in name:
        return "", endpoint
    if _NAME.fullmatch(name) is None:
        raise ConfigError(f"{endpoint!r}: what is before the @ is no name of a certificate")
    return name, scheme + dialled


def is_local(target: str) -> bool:
    """Whether a gRPC target is a loopback address, `localhost`, or a socket of this machine."""
    scheme, _, rest = target.partition(":")
    if scheme in _SOCKETS:
        return True
    if scheme in _ADDRESSES:
        return all(_is_loopback(_host(each)) for each in rest.split(","))
    if scheme == "dns":
        # dns:[//server/]host[:port] (gRPC Name Resolution)
        target = rest[2:].partition("/")[2] if rest.startswith("//") else rest
    return is_near(_host(target))


def is_near(host: str) -> bool:
    """Whether a host is a loopback address or `localhost`; no name is looked up."""
    return host.lower() == "localhost" or _is_loopback(host)


def _host(address: str) -> str:
    if address.startswith("["):
        host, _, port = address[1:].partition("]")
        return host if port[:1] in ("", ":") else ""
    return address if address.count(":") > 1 else address.partition(":")[0]


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
