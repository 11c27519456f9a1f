"""Run the anchor service: `python -m anchor_svc`."""

from __future__ import annotations

import provledger.quiet_grpc  # noqa: F401 - before gRPC
from anchor_svc.app import build
from anchor_svc.config import Settings
from provledger.rpc.server import main

if __name__ == "__main__":
    main("anchor", Settings, build)
