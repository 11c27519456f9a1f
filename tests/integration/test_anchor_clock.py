"""No head is dated by a clock that is far ahead of everybody's: its key would end before that."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from provledger.errors import UnavailableError
from provledger.keyset import MAX_CLOCK_AHEAD_NS
from tests.support.anchoring import Ledger, running_log, submit


async def test_no_head_is_signed_by_a_clock_far_ahead_of_the_database(
    postgres_database_url: str, tmp_path: Path
) -> None:
    """Entries are logged meanwhile: no checkpoint has a time."""
    ahead_ns, ledger = [0], Ledger()
    clock = lambda: time.time_ns() + ahead_ns[0]  # noqa: E731 - as the log takes it
    async with running_log(postgres_database_url, tmp_path, clock=clock) as log:
        ledger.grow(3)
        await submit(log, ledger)
        ahead_ns[0] = MAX_CLOCK_AHEAD_NS - 60 * 10**9
        await log.committer.check_ours()
        await log.reader.ledger_head(ledger.uid, 0)
        ahead_ns[0] = 3600 * 10**9
        await log.committer.check_ours()
        with pytest.raises(UnavailableError, match="s ahead of its database's") as caught:
            await log.reader.ledger_head(ledger.uid, 0)
        assert caught.value.reason == "CLOCK_SKEW"
        ledger.grow(1)
        await submit(log, ledger, 3)
        # Set right, it is asked again at once.
        ahead_ns[0] = 0
        await log.reader.ledger_head(ledger.uid, 0)
