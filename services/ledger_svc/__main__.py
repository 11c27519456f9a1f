"""Run the ledger service: `python -m ledger_svc`."""

from __future__ import annotations

import provledger.quiet_grpc  # noqa: F401 - before gRPC
from ledger_svc.app import build
from ledger_svc.config import Settings
from provledger.rpc.server import main

if __name__ == "__main__":
    main("ledger", Settings, build)
