"""Real services, real sockets, the real command line, in temporary data directories."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import Installation


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> None:
    """Have commands hear SIGINT, however the tests were started.

    A shell starts jobs in the background with it ignored, and every process inherits that: what a
    test sends to a command before it listens itself would be lost, and nobody at a terminal could
    send it there.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One set of services for all tests that leave them running; each uses a tenant of its own."""
    installation = Installation(tmp_path_factory.mktemp("shared"))
    installation.run("up")
    try:
        yield installation
    finally:
        installation.run("down")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Installation]:
    """A data directory of the test's own; whatever runs there at its end is stopped."""
    installation = Installation(tmp_path)
    try:
        yield installation
    finally:
        installation.run("down", check=False)
