"""Imported first by a service: gRPC's core then writes nothing to stderr, where our log goes.

It has lines of its own for every handshake that fails, which are no JSON, and which anybody who
reaches the port can have it write. `GRPC_VERBOSITY`, if set, stays as it is. gRPC reads it when it
is imported, so that `process.main` would come too late.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_VERBOSITY", "NONE")
