"""Which checkpoints an export proves that its own extends, and which it refuses to be asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from provledger import checkpoint as checkpoints
from provledger import merkle
from provledger import note as notes
from provledger.api.anchor.v1 import anchor_pb2
from provledger.errors import NotFoundError, OutOfRangeError, VerificationError
from provledger.export import ConsistencyProof, verify_export
from provledger.keyset import CoveredCheckpoint, KeyPurpose, KeySet, KeyState
from provledger.report import Check, Finding, Status
from provledger_cli.connect import Remote, Target
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import COULD_NOT_TELL, CommandError
from provledger_cli.verbs.export import _export
from provledger_cli.verifying import earlier_checkpoints
from provledger_cli.verifying.earlier_checkpoints import consistency
from tests.support.chain import ORIGIN, Chain, key_set, sample_chain

CHAIN = sample_chain(flushes=(3, 1, 4, 2))
SIZE = len(CHAIN.leaves)


class Log:
    """A `Remote` whose anchor serves the log of a chain, as far as `signed`.

    keys: what the registry has; None for a registry that is not known.
    """

    def __init__(self, signed: int = SIZE, keys: KeySet | None = None) -> None:
        self.signed = signed
        self.keys = keys
        self.client = self
        self.anchored = list(range(SIZE - 1, 0, -1))
        self.anchor = SimpleNamespace(
            GetCheckpoint=self._checkpoint,
            GetConsistencyProof=self._consistency,
            ListAnchors=self._anchors,
        )

    def has(self, service: str) -> bool:
        return service == "anchor" or (service == "keys" and self.keys is not None)

    async def jwks(self) -> bytes:
        assert self.keys is not None
        return self.keys.encode()

    async def call(self, method: Any, request: Any) -> Any:
        return method(request)

    def _checkpoint(self, request: Any) -> Any:
        if request.tree_size > self.signed:
            raise OutOfRangeError("TREE_SIZE_OUT_OF_RANGE", f"the newest is {self.signed}")
        return anchor_pb2.GetCheckpointResponse(checkpoint=CHAIN.checkpoint(request.tree_size))

    def _consistency(self, request: Any) -> Any:
        hashes = CHAIN.consistency(request.old_size).hashes
        return anchor_pb2.GetConsistencyProofResponse(hashes=hashes)

    def _anchors(self, request: Any) -> Any:
        return anchor_pb2.ListAnchorsResponse(
            anchors=[anchor_pb2.Anchor(tree_size=size) for size in self.anchored]
        )


async def proved(
    *known: bytes, log: Log | None = None, size: int = SIZE, count: int = 0
) -> list[ConsistencyProof]:
    remote = cast(Remote, log or Log())
    return await consistency(remote, "logs/-", ORIGIN, size, count, known)


def sizes(proofs: list[ConsistencyProof]) -> list[int]:
    return [checkpoints.parse(notes.parse(each.checkpoint).text).size for each in proofs]


async def test_what_is_proved_verifies() -> None:
    found = await proved(CHAIN.checkpoint(5), CHAIN.checkpoint(), count=3)
    assert sizes(found) == [5, SIZE - 3, SIZE - 2, SIZE - 1, SIZE]
    assert verify_export(CHAIN.export(consistency=found), key_set()).status is Status.VERIFIED


def other_signature(signed: bytes, *, note_key_id: bytes | None = None) -> bytes:
    """The same note by another signature; and by another key, if one is given."""
    opened = notes.parse(signed)
    (line,) = opened.signatures
    other = notes.signature_line(line.name, note_key_id or line.note_key_id, bytes(64))
    return notes.format_note(opened.text, [other])


async def test_a_note_that_the_log_did_not_sign_does_not_hold() -> None:
    forged = other_signature(CHAIN.checkpoint(5))
    with pytest.raises(VerificationError, match="not signed by a log key") as caught:
        await proved(CHAIN.checkpoint(4), forged, log=Log(keys=key_set()))
    assert (caught.value.check, caught.value.finding) == (
        Check.CHECKPOINT_SIGNATURE,
        Finding.SIGNATURE_CHANGED,
    )


async def test_a_note_by_a_key_that_is_not_registered_cannot_be_told() -> None:
    foreign = other_signature(CHAIN.checkpoint(5), note_key_id=b"none")
    with pytest.raises(CommandError, match="size 5 cannot be told") as caught:
        await proved(foreign, log=Log(keys=key_set()))
    assert caught.value.exit_code == COULD_NOT_TELL


async def test_another_history_is_told_before_who_signed_it() -> None:
    forked = CHAIN.checkpoint(5, leaves=[*CHAIN.leaves[:4], b"something else"])
    with pytest.raises(VerificationError, match="is not the one"):
        await proved(other_signature(forked), log=Log(keys=key_set()))


async def test_without_keys_it_is_said_that_signatures_were_not_checked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = await proved(other_signature(CHAIN.checkpoint(5)))
    assert sizes(found) == [5]
    assert "were not checked" in " ".join(capsys.readouterr().err.split())


def revoked_after(chain: Chain, size: int) -> KeySet:
    """The registry's keys with the checkpoint key revoked; what that size covers stands."""
    named = CoveredCheckpoint(ORIGIN, size, chain.root_hash(size))
    return KeySet(
        replace(key, state=KeyState.REVOKED, covered=(named,))
        if key.purpose is KeyPurpose.CHECKPOINT
        else key
        for key in key_set()
    )


async def test_a_note_by_a_key_revoked_before_it_is_told_and_passed_over(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the verifier of the export passes it over; one that the revocation covers stands."""
    keys = revoked_after(CHAIN, 5)
    for kept in (4, 5):
        assert kept in sizes(await proved(CHAIN.checkpoint(kept), log=Log(keys=keys)))
    assert "shows nothing" not in " ".join(capsys.readouterr().err.split())
    assert 7 in sizes(await proved(CHAIN.checkpoint(7), log=Log(keys=keys)))
    assert "the checkpoint of size 7 shows nothing" in " ".join(capsys.readouterr().err.split())


async def test_a_checkpoint_of_another_log_is_refused() -> None:
    other = sample_chain(origin="elsewhere.test/log").checkpoint(5)
    with pytest.raises(CommandError, match=r"another log: elsewhere\.test/log, not") as caught:
        await proved(other)
    assert caught.value.exit_code == COULD_NOT_TELL


async def test_a_checkpoint_of_another_history_does_not_hold() -> None:
    forked = CHAIN.checkpoint(5, leaves=[*CHAIN.leaves[:4], b"something else"])
    with pytest.raises(VerificationError, match="tree of size 5 is not the one") as caught:
        await proved(forked)
    assert caught.value.finding == Finding.HEAD_NOT_EXTENDING


@pytest.mark.parametrize(
    ("reason", "told"), [("CHECKPOINT_NOT_FOUND", True), ("LOG_NOT_FOUND", False)]
)
async def test_a_checkpoint_of_a_size_that_the_log_never_signed_does_not_hold(
    reason: str, told: bool
) -> None:
    """Which sizes a log signs is chance: another history of it signs others."""

    def call(request: Any) -> Any:
        raise NotFoundError(reason, "there is none")

    log = Log()
    log.anchor.GetCheckpoint = call
    forked = CHAIN.checkpoint(5, leaves=[*CHAIN.leaves[:4], b"something else"])
    with pytest.raises(VerificationError if told else NotFoundError) as caught:
        await proved(forked, log=log)
    if isinstance(caught.value, VerificationError):
        assert caught.value.finding == Finding.HEAD_NOT_EXTENDING
        assert "signed no tree of size 5" in caught.value.message
        assert "split-view.md" in caught.value.message


async def test_a_log_that_does_not_reach_a_checkpoint_does_not_hold() -> None:
    """What a log has signed it has kept: this is how one that was cut looks."""
    with pytest.raises(VerificationError, match=r"not reach .* size 9: the newest is 7") as bad:
        await proved(CHAIN.checkpoint(9), log=Log(signed=7), size=7)
    assert bad.value.finding == Finding.TRUNCATED


async def test_a_checkpoint_that_is_not_anchored_yet_is_told() -> None:
    with pytest.raises(CommandError, match="size 9 is newer than that of size 7") as caught:
        await proved(CHAIN.checkpoint(9), size=7)
    assert caught.value.exit_code == COULD_NOT_TELL


async def test_the_empty_tree_is_refused() -> None:
    """Asked for size 0, the anchor means the newest checkpoint."""
    empty = checkpoints.format(ORIGIN, 0, merkle.root([]))
    line = notes.signature_line(ORIGIN, bytes(4), bytes(64))
    with pytest.raises(CommandError, match="size 0"):
        await proved(notes.format_note(empty, [line]))


@pytest.mark.parametrize("bad", [b"", b"nonsense", CHAIN.checkpoint(5)[:-1]])
async def test_what_is_no_checkpoint_is_refused(bad: bytes) -> None:
    with pytest.raises(CommandError, match="--checkpoint"):
        await proved(bad)


async def test_known_checkpoints_find_room_before_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(earlier_checkpoints, "MAX_CONSISTENCY_PROOFS", 3)
    assert sizes(await proved(CHAIN.checkpoint(10), count=9)) == [9, 10, SIZE - 1]
    log = Log()
    log.anchored = [4, 3, 2, 1]
    assert sizes(await proved(CHAIN.checkpoint(10), log=log, count=9)) == [3, 4, 10]
    with pytest.raises(CommandError, match="4 checkpoints are more than"):
        await proved(*(CHAIN.checkpoint(size) for size in (2, 3, 4, 5)))


async def test_without_the_anchor_no_checkpoint_can_be_proved(
    tmp_path: Path,
) -> None:
    where = Target(DataDir.at(tmp_path / "none"), {"ledger": "127.0.0.1:1"}, False)
    out, known = tmp_path / "x.ndjson", [CHAIN.checkpoint(5)]
    with pytest.raises(CommandError, match="without the anchor"):
        await _export(where, Chain().name, out, 0.0, 5.0, 0, known, False)
    assert not out.exists()
