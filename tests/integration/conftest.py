"""What integration tests share."""

from __future__ import annotations

import pytest

from provledger.rpc import listener


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests that use `either_server` both kinds, in a quick run the usual one alone."""
    if "either_server" in metafunc.fixturenames:
        kinds = ["direct", "aio"] if metafunc.config.getoption("thorough") else ["direct"]
        metafunc.parametrize("either_server", kinds, indirect=True)


@pytest.fixture
def either_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with servers of both kinds: what callers see is the same."""
    if request.param == "aio":
        monkeypatch.setattr(listener, "_direct", listener._aio)
