"""`endpoints.json`: where the services of a data directory are, as their supervisor last wrote it.

It looks like this::

    {"version": "0.1.0", "supervisor_pid": 4711, "database": "sqlite",
     "sinks": ["file:///home/me/.local/share/provledger/anchors"],
     "services": {"ledger": {"endpoint": "127.0.0.1:40123", "pid": 4715, "state": "serving",
                             "restarts": 0, "last_exit": null, "log": ".../logs/ledger.log"}, ...},
     "data_dir": "/home/me/.local/share/provledger"}

`state` is `starting`, `serving` or `stopped`; `last_exit` is what the process before ended with,
negative for a signal. `gateway` is there where it is installed, and speaks HTTP. `data_dir` is that
of `config.json`; "" or not there where an earlier version ran, which left that one as it was. The
file stays when the services stop: the ports are tried again then.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from provledger_cli.embedded.datadir import GATEWAY, SERVICES, write_json
from provledger_cli.failures import CommandError

STARTING = "starting"
SERVING = "serving"
STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class ServiceState:
    """One service; `pid` is 0 while there is no process."""

    endpoint: str
    pid: int
    state: str
    restarts: int
    last_exit: int | None
    log: str


@dataclass(frozen=True, slots=True)
class Endpoints:
    """All of them."""

    version: str
    supervisor_pid: int
    database: str
    sinks: tuple[str, ...]
    services: dict[str, ServiceState]
    data_dir: str = ""

    def write(self, path: Path) -> None:
        """Put the file in place."""
        write_json(path, asdict(self))


def read(path: Path) -> Endpoints | None:
    """What the file says; None if there is none.

    Raises:
        CommandError: if it is not such a file.
    """
    try:
        value: Any = json.loads(path.read_text("utf-8"))
        return Endpoints(
            version=str(value["version"]),
            supervisor_pid=int(value["supervisor_pid"]),
            database=str(value["database"]),
            sinks=tuple(str(sink) for sink in value["sinks"]),
            services={
                name: ServiceState(
                    endpoint=str(value["services"][name]["endpoint"]),
                    pid=int(value["services"][name]["pid"]),
                    state=str(value["services"][name]["state"]),
                    restarts=int(value["services"][name]["restarts"]),
                    last_exit=value["services"][name]["last_exit"],
                    log=str(value["services"][name]["log"]),
                )
                for name in (*SERVICES, *([GATEWAY] if GATEWAY in value["services"] else []))
            },
            data_dir=str(value.get("data_dir", "")),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise CommandError(
            f"{path} is not a file of endpoints",
            hint="remove it and run `provledger up`, which writes it anew",
        ) from None
