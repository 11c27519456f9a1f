"""What integration tests share."""

from __future__ import annotations

import pytest

from provledger.rpc import listener


@pytest.fixture(params=["direct", "aio"])
def either_server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a test with servers of both kinds: what callers see is the same."""
    if request.param == "aio":
        monkeypatch.setattr(listener, "_direct", listener._aio)
