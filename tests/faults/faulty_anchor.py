"""The anchor service with a key provider and sinks that can fail: see `tests.faults.faulty`."""

from __future__ import annotations

from anchor_svc.app import build
from anchor_svc.config import Settings
from provledger.rpc.server import main
from tests.faults import faulty

if __name__ == "__main__":
    faulty.install()
    main("anchor", Settings, build)
