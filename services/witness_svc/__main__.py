"""Run the witness service: `python -m witness_svc`."""

from __future__ import annotations

import provledger.quiet_grpc  # noqa: F401 - before gRPC
from provledger.rpc.server import main
from witness_svc.app import build
from witness_svc.config import Settings

if __name__ == "__main__":
    main("witness", Settings, build)
