"""Run the keys service: `python -m keys_svc`."""

from __future__ import annotations

import provledger.quiet_grpc  # noqa: F401 - before gRPC
from keys_svc.app import build
from keys_svc.config import Settings
from provledger.rpc.server import main

if __name__ == "__main__":
    main("keys", Settings, build)
