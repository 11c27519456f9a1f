"""Run the gateway: `python -m gateway_svc`. Needs the extra `gateway`."""

from __future__ import annotations

import sys

import provledger.quiet_grpc  # noqa: F401 - before gRPC

if __name__ == "__main__":
    try:
        from gateway_svc.app import build
        from gateway_svc.config import Settings
        from provledger.http.server import main
    except ModuleNotFoundError as error:
        if error.name not in ("httptools", "starlette", "uvicorn"):
            raise
        sys.stderr.write(
            f"provledger gateway: {error.name} is missing: install provledger[gateway]\n"
        )
        sys.exit(2)
    main("gateway", Settings, build)
