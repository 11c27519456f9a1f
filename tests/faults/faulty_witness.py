"""The witness service with a key provider that can fail: see `tests.faults.faulty`."""

from __future__ import annotations

from provledger.rpc.server import main
from tests.faults import faulty
from witness_svc.app import build
from witness_svc.config import Settings

if __name__ == "__main__":
    faulty.install()
    main("witness", Settings, build)
