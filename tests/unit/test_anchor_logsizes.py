"""Which sizes of its logs an anchor reports, by which keys begin and end for good."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from anchor_svc import openlogs
from anchor_svc.logsizes import LogSizes
from anchor_svc.openlogs import OpenLogs
from anchor_svc.recovery import _check_published
from anchor_svc.storage import DEFAULT_ALIAS, LogRow
from anchor_svc.tilefiles import disk_unavailable
from provledger.errors import DataLossError, StatusError
from provledger.keyset import KeyPurpose, KeySet, VerificationKey
from provledger.retry import RetryPolicy
from tests.support.anchoring import eventually
from tests.support.chain import ORIGIN, private_key
from tests.support.tiled import signed_checkpoint

pytestmark = pytest.mark.timeout(60)

ROW = LogRow(bytes(16), ORIGIN, "sha256", 3, bytes(32), 0, 0, 7, "tenants/t")
SHARED = replace(ROW, log_uid=b"s" * 16, origin="provledger.test/shared", alias=DEFAULT_ALIAS)
PUBLISHED = signed_checkpoint(ORIGIN, [b"x"] * 5)
KEYS = KeySet(
    VerificationKey.from_public_key(
        private_key(kid).public_key(), kid=kid, purpose=purpose, epoch=1
    )
    for kid, purpose in [("checkpoint-1", KeyPurpose.CHECKPOINT), ("head-1", KeyPurpose.HEAD)]
)


async def closed_by(published: bytes, stored: int) -> StatusError:
    """Why a log is closed whose published checkpoint is larger than any in its database."""
    signed: Any = SimpleNamespace(size=stored) if stored else None
    with pytest.raises(DataLossError) as caught:
        await _check_published(SimpleNamespace(), published, ROW, signed)
    assert caught.value.reason == "DATABASE_BEHIND"
    return caught.value


class Logs:
    """The shared log, and one of a tenant that fails with the next of `errors` at each attempt."""

    def __init__(self, stored: int, *errors: StatusError) -> None:
        self.stored = stored
        self.errors = list(errors)
        self.logs = OpenLogs(
            self.make, self._nothing, self._nothing, self._nothing, self.signed_size, max_logs=1
        )

    async def signed_size(self, uid: bytes) -> int:
        """Of the tenant's log, in the database."""
        assert uid == ROW.log_uid
        return self.stored

    def make(self, row: LogRow) -> Any:
        async def start() -> None:
            if row is ROW and self.errors:
                raise self.errors.pop(0)

        return SimpleNamespace(
            open=start,
            close=self._nothing,
            state=SimpleNamespace(signed_size=9),
            identity=SimpleNamespace(origin=row.origin),
            committer=SimpleNamespace(check_ours=self._nothing),
            background=(),
        )

    async def _nothing(self, *_: Any) -> Any:
        return None

    def reported(self, keys: KeySet = KEYS) -> dict[str, int]:
        """Sizes by origin."""
        return dict(LogSizes(self.logs, lambda: keys)())


@pytest.mark.parametrize(("stored", "size"), [(0, 5), (3, 5)])
async def test_a_closed_log_is_as_large_as_what_was_published_and_signed(
    stored: int, size: int
) -> None:
    """A key that ends at a smaller size would not have signed that checkpoint."""
    logs = Logs(stored, await closed_by(PUBLISHED, stored))
    await logs.logs.open_all([SHARED, ROW])
    assert logs.reported() == {SHARED.origin: 9, ORIGIN: size}


FORGED = {
    "one digit of its size": PUBLISHED.replace(b"\n5\n", b"\n95\n"),
    "its end is missing": PUBLISHED.replace(b"\n5\n", b"\n95\n")[:-20],
    "another key": signed_checkpoint(ORIGIN, [b"x"] * 5, "checkpoint-2"),
    "a key for heads": signed_checkpoint(ORIGIN, [b"x"] * 5, "head-1"),
    "another log": signed_checkpoint(f"{ORIGIN}2", [b"x"] * 5),
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
async def test_an_unverified_file_does_not_say_how_large_a_log_is(forged: bytes) -> None:
    """A key that begins at a size which the log does not have signs nothing that counts."""
    logs = Logs(3, await closed_by(forged, 3))
    await logs.logs.open_all([SHARED, ROW])
    assert logs.reported() == {SHARED.origin: 9, ORIGIN: 3}
    nothing = Logs(0, await closed_by(forged, 0))
    await nothing.logs.open_all([SHARED, ROW])
    assert nothing.reported() == {SHARED.origin: 9}


async def test_what_was_verified_stays_when_its_key_is_gone() -> None:
    logs = Logs(3, await closed_by(PUBLISHED, 3))
    await logs.logs.open_all([SHARED, ROW])
    keys = [KEYS]
    sizes = LogSizes(logs.logs, lambda: keys[0])
    keys[0] = KeySet()
    assert dict(sizes())[ORIGIN] == 3
    keys[0] = KEYS
    assert dict(sizes())[ORIGIN] == 5
    keys[0] = KeySet()
    assert dict(sizes())[ORIGIN] == 5


async def test_a_log_whose_disk_came_back_is_as_large_as_what_is_found_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Why it is closed is another thing then than at the start."""
    again = RetryPolicy(attempts=9, base_s=0.01, cap_s=0.01, budget_s=float("inf"))
    monkeypatch.setattr(openlogs, "_AGAIN", again)
    logs = Logs(3, disk_unavailable(), await closed_by(PUBLISHED, 3))
    await logs.logs.open_all([SHARED, ROW])
    assert logs.reported()[ORIGIN] == 3
    await logs.logs._open_again()
    await eventually(lambda: not logs.errors)
    assert logs.reported()[ORIGIN] == 5
