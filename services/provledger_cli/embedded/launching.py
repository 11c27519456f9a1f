"""How each service is started: its command, its environment, its port.

Settings go by environment, so that nothing secret stands in a process list. What is already set
there (OTEL_*, PROVLEDGER_LEDGER_FLUSH_ITEMS, ...) is passed on; what is decided here wins.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from importlib.util import find_spec

from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import GATEWAY, SERVICES, DataDir
from provledger_cli.embedded.endpoints import Endpoints

HOST = "127.0.0.1"

WITNESS_PRIVATE_KEY = "WITNESS_PRIVATE_KEY"
"""The variable with a witness key that is there already (`provledger_cli.embedded.given_key`)."""

GIVEN_ON_STDIN = "-"
"""Tells a supervisor to read what that variable gives on its stdin."""

NEEDS = {
    "keys": (),
    "witness": ("keys",),
    "anchor": ("keys",),
    "ledger": ("keys", "witness", "anchor"),
    GATEWAY: ("keys",),
}
"""Whose address a service must know; these are started first."""

NOT_ALWAYS_NEEDED = ("witness", "anchor")
"""Without these, those that need them still serve reads: they are not waited for for ever."""


def installed() -> tuple[str, ...]:
    """The services that can be started here: the gateway needs an extra."""
    extra = all(find_spec(name) is not None for name in ("httptools", "starlette", "uvicorn"))
    return (*SERVICES, GATEWAY) if extra else SERVICES


def command(service: str, lifeline_fd: int, *, fips: bool = False) -> list[str]:
    """The command line of a service; in FIPS mode without the detour over itself."""
    launch = ["provledger.fips.launch"] if fips else []
    module = [*launch, f"{service}_svc"]
    return [sys.executable, "-m", *module, "--lifeline-fd", str(lifeline_fd)]


def environment(
    service: str, data_dir: DataDir, config: Config, ports: Mapping[str, int]
) -> dict[str, str]:
    """The environment of a service; a port of 0 lets the system choose."""
    address = {name: f"{HOST}:{port}" for name, port in ports.items()}
    settings = {
        "host": HOST,
        "port": str(ports[service]),
        "ready_file": str(data_dir.ready_file(service)),
        "log_format": "json",
    }
    if service not in ("witness", GATEWAY):
        settings["database_url"] = config.url(data_dir, service)
    if service == "witness":
        settings |= {"keys_endpoint": address["keys"], "key_dir": str(data_dir.keys)}
    elif service == "anchor":
        settings |= {
            "keys_endpoint": address["keys"],
            "key_dir": str(data_dir.keys),
            "data_dir": str(data_dir.tiles),
            # Backups, and the gateway beside it, take tiles from the data directory.
            "tile_store": "",
            "sinks": ",".join(config.sinks),
        }
    elif service == "ledger":
        settings |= {
            "keys_endpoint": address["keys"],
            "witness_endpoint": address["witness"],
            "anchor_endpoint": address["anchor"],
        }
    elif service == GATEWAY:
        settings |= {"keys_endpoint": address["keys"], "data_dir": str(data_dir.tiles)}
    if config.fips:
        # FIPS mode allows no other suite: a ledger or log that is made without naming one gets it.
        suite = {"ledger": "default_suite", "anchor": "suite"}.get(service)
        settings |= {suite: "fips"} if suite else {}
    own = {f"PROVLEDGER_{service}_{name}".upper(): value for name, value in settings.items()}
    # Services open keys by URI; a key in the environment would be in all four of them.
    passed = {name: text for name, text in os.environ.items() if name != WITNESS_PRIVATE_KEY}
    # A local key is what an embedded installation has; `up` and its pages say what that means.
    development = os.environ.get("PROVLEDGER_DEVELOPMENT", "1")
    return {
        **passed,
        **own,
        "PROVLEDGER_FIPS": "1" if config.fips else "0",
        "PROVLEDGER_DEVELOPMENT": development,
    }


def earlier_ports(before: Endpoints | None) -> dict[str, int]:
    """The port each service had before, to be tried again; 0, the system's choice, otherwise."""
    ports = dict.fromkeys(installed(), 0)
    for name, service in before.services.items() if before is not None else ():
        port = service.endpoint.rpartition(":")[2]
        if name in ports and port.isdecimal() and is_free(int(port)):
            ports[name] = int(port)
    return ports


def free_port() -> int:
    """A port that nobody has now, for a service that others are told of before it serves."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])


def is_free(port: int) -> bool:
    """Whether a service could listen on a port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        # As the services do it: a port in TIME_WAIT is free.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
    return True
