"""Asks one service of this machine for its health: `python -m provledger.rpc.healthcheck keys`.

For probes of an orchestrator, which cannot show a client certificate themselves. Address and
certificates are those of the service's own settings (environment PROVLEDGER_<SERVICE>_*, and the
file that PROVLEDGER_CONFIG names), so that a probe needs nothing of its own. The service's
certificate is held against the CA; which of its names is expected comes from the same certificate,
since the address asked is one of this machine.

Exit status: 0 SERVING, 1 anything else, 2 settings that cannot be used. It imports little: it runs
every few seconds, in the pod's own share of the processor.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from provledger.settings import ConfigError, env_name, one_text

TIMEOUT_S: Final = 4.0
"""For the connection and the answer; a probe's own timeout should be longer."""

# Those that answer over gRPC; the gateway and the notary are asked over HTTPS.
_SERVICES: Final = "keys, witness, ledger, anchor"
# A proxy from the environment has no business on this machine.
_OPTIONS: Final = (("grpc.enable_http_proxy", 0),)


def main(argv: list[str] | None = None, environ: Mapping[str, str] = os.environ) -> int:
    """The exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    if len(arguments) != 1:
        sys.stderr.write(f"usage: python -m provledger.rpc.healthcheck SERVICE, of {_SERVICES}\n")
        return 2
    config = environ.get("PROVLEDGER_CONFIG")
    file = Path(config) if config else None

    def setting(name: str) -> str:
        return one_text(arguments[0], name, environ, file)

    try:
        address = _address(setting("host"), _port(arguments[0], setting("port")))
        paths = [setting(name) for name in ("tls_ca", "tls_key", "tls_cert")]
        opened = _channel(address, [Path(path).read_bytes() for path in paths if path])
    except ConfigError as error:
        sys.stderr.write(f"cannot ask for health: {error}\n")
        return 2
    except (ValueError, OSError) as error:
        sys.stderr.write(f"cannot ask for health: {type(error).__name__}: {error}\n")
        return 2
    with opened:
        stub: Any = health_pb2_grpc.HealthStub(opened)
        try:
            answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            sys.stderr.write(f"{code.name}\n")
            return 1
    status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    sys.stderr.write(f"{status}\n")
    return 0 if answer.status == health_pb2.HealthCheckResponse.SERVING else 1


def _port(service: str, text: str) -> int:
    name = env_name(service, "port")
    if not text:
        raise ConfigError(
            f"{name} is not set, nor port in the table of {service!r} of the file that "
            f"PROVLEDGER_CONFIG names; services are {_SERVICES}"
        )
    if not (text.isascii() and text.isdecimal()):
        raise ConfigError(f"{name} is {text!r}, and no port")
    return int(text)


def _address(host: str, port: int) -> str:
    """Where a service that listens on `host` is found from here."""
    every = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - asked, not bound
    host = every.get(host, host)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _channel(address: str, tls: list[bytes]) -> grpc.Channel:
    if not tls:
        return grpc.insecure_channel(address, options=_OPTIONS)
    if len(tls) != 3:
        raise ValueError("TLS needs a certificate, a key and a CA")
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", _name(tls[2])))
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(*tls), options=options)


def _name(chain: bytes) -> str:
    """A DNS name of our certificate, which is the server's as well."""
    from cryptography import x509

    certificate = x509.load_pem_x509_certificates(chain)[0]
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)[0]
    except (x509.ExtensionNotFound, IndexError):
        raise ValueError("the certificate has no DNS name, which callers hold it against") from None


if __name__ == "__main__":
    sys.exit(main())
