"""Real services, real sockets, the real command line, in temporary data directories."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.commands import Installation


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
