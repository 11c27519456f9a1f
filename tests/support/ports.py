"""Ports of loopback that stay ours: below the range the system gives to outgoing connections."""

from __future__ import annotations

import random
import socket

# Not from `--fault-seed`: a replay beside the first run must not fight over its ports.
_random = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """That many ports nobody listens on. A service that is killed finds its own free again."""
    found: list[int] = []
    while len(found) < count:
        port = _random.randrange(10_000, 32_000)
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def free_port() -> int:
    """One of `free_ports`."""
    return free_ports(1)[0]
