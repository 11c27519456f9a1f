"""What `status` and `status --wait` make of a list of ledgers that has no end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import DataLossError, FailedPreconditionError, StatusError, UnavailableError
from provledger_cli.anchoring import ledgers, wait_until_anchored
from provledger_cli.connect import Remote


class Services:
    """A ledger that is logged and anchored whole, and what comes in place of the list's end."""

    def __init__(self, end: StatusError | None, *names: str) -> None:
        self.client = self
        self.anchor = SimpleNamespace(GetLog="GetLog", ListLogs="ListLogs")
        self._end = end
        self._names = names

    async def list_ledgers(self, **_: Any) -> AsyncIterator[Any]:
        for name in self._names:
            yield SimpleNamespace(name=name, seq=0, logged_seq=0, log="", read_only_reason="")
        if self._end is not None:
            raise self._end

    async def call(self, method: str, *_: Any, **__: Any) -> Any:
        if method == "ListLogs":
            return anchor_pb2.ListLogsResponse()
        return anchor_pb2.GetLogResponse(
            log=anchor_pb2.Log(name="logs/-", tree_size=2, published_size=2, anchored_size=2)
        )


def remote(end: StatusError | None, *names: str) -> Remote:
    return cast(Remote, Services(end, *names))


BEHIND = FailedPreconditionError("LEDGER_BEHIND_ANCHOR", "one is missing")
NOBODY_KNOWS = UnavailableError("ANCHOR_NOT_ASKED", "the anchor is away")


@pytest.mark.parametrize("end", [None, BEHIND, NOBODY_KNOWS])
def test_what_is_there_is_shown_beside_what_is_missing(end: StatusError | None) -> None:
    found, missing = asyncio.run(ledgers(remote(end, "a", "b")))
    assert [ledger.name for ledger in found] == ["a", "b"]
    assert missing is end


def test_an_empty_database_may_be_an_older_one() -> None:
    end = DataLossError("LEDGER_ROLLED_BACK", "there were some")
    assert asyncio.run(ledgers(remote(end))) == ([], end)
    with pytest.raises(UnavailableError):
        asyncio.run(ledgers(remote(NOBODY_KNOWS)))


def test_all_is_anchored_only_where_all_is_listed() -> None:
    def reached(end: StatusError | None) -> bool:
        return asyncio.run(wait_until_anchored(remote(end, "a"), 0.0))[2]

    assert reached(None)
    assert not reached(BEHIND)
    assert not reached(NOBODY_KNOWS)
