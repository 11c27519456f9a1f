"""What every sink must do, whoever wrote it. Derive from `SinkSuite` and give a `place`.

A place is where a sink puts things: `open()` makes a sink for it, as a new process would.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import pytest

from anchor_svc.quorum import MAX_EVIDENCE_BYTES
from anchor_svc.sinks import (
    AnchorSink,
    Listing,
    PublishedCheckpoint,
    Remembering,
    SinkIntegrityError,
)
from provledger.errors import VerificationError
from provledger.outside import check_named
from provledger.receipt import Evidence, Proof
from tests.support.notary import TinyLog

LOG = TinyLog("log.test/sinks")
OTHER = TinyLog("log.test/sinks", fork_at=3)


class Place(Protocol):
    """Where checkpoints are put."""

    def open(self) -> AnchorSink: ...

    def verify(self, checkpoint: PublishedCheckpoint, kind: str, evidence: bytes) -> None:
        """Check evidence with something else than the sink; raises if it does not hold."""
        ...


def published(size: int, known_size: int = 0, log: TinyLog = LOG) -> PublishedCheckpoint:
    """A checkpoint of a made-up log, with a way to prove it."""

    async def prove(old_size: int) -> Sequence[bytes]:
        return log.proof(old_size, size)

    return PublishedCheckpoint(
        log.origin, size, log.root(size), log.checkpoint(size), known_size, prove
    )


class SinkSuite:
    """The suite; the fixture `place` is the user's."""

    async def test_evidence_is_small_and_holds(self, place: Place) -> None:
        sink = place.open()
        checkpoint = published(7)
        evidence = await sink.anchor(checkpoint)
        assert evidence.kind
        assert 0 < len(evidence.data) <= MAX_EVIDENCE_BYTES
        place.verify(checkpoint, evidence.kind, evidence.data)
        await sink.close()

    async def test_evidence_is_what_verify_takes(self, place: Place) -> None:
        """Receipts carry it for good: what a verifier refuses spoils them."""
        sink = place.open()
        checkpoint = published(7)
        evidence = await sink.anchor(checkpoint)
        await sink.close()
        item = Evidence(sink.uri, evidence.kind, 1, evidence.data)
        proof = Proof(LOG.origin, 0, (), checkpoint.note, (item,))
        known = check_named(proof, 7, item)
        if known:
            other = dataclasses.replace(proof, checkpoint=LOG.checkpoint(8))
            with pytest.raises(VerificationError):
                check_named(other, 8, item)

    async def test_same_checkpoint_again_after_a_lost_answer(self, place: Place) -> None:
        """Failed but persisted: the sink has it, and we do not know."""
        sink = place.open()
        first = await sink.anchor(published(7))
        again = await sink.anchor(published(7))
        assert again.kind == first.kind
        place.verify(published(7), again.kind, again.data)
        await sink.close()

    async def test_lost_answer_and_a_restart_of_ours(self, place: Place) -> None:
        sink = place.open()
        await sink.anchor(published(5))
        await sink.anchor(published(7, known_size=5))
        await sink.close()
        sink = place.open()
        for checkpoint in (published(7, known_size=5), published(12, known_size=5)):
            evidence = await sink.anchor(checkpoint)
            place.verify(checkpoint, evidence.kind, evidence.data)
        await sink.close()

    async def test_sizes_in_between_may_be_skipped(self, place: Place) -> None:
        sink = place.open()
        for size, known_size in ((1, 0), (2, 1), (40, 2), (41, 40)):
            checkpoint = published(size, known_size)
            evidence = await sink.anchor(checkpoint)
            place.verify(checkpoint, evidence.kind, evidence.data)
        await sink.close()

    async def test_what_remembers_says_what_it_holds(self, place: Place) -> None:
        """After a restore it is asked whether it holds more than we do (`Remembering`)."""
        sink = place.open()
        if not isinstance(sink, Remembering):
            await sink.close()
            pytest.skip("this sink remembers nothing")
        assert not await sink.holds(published(7))
        await sink.anchor(published(7))
        assert await sink.holds(published(7))
        await sink.anchor(published(12, known_size=7))
        assert await sink.holds(published(12))
        for stale in (published(7), published(11), published(12, log=OTHER)):
            with pytest.raises(SinkIntegrityError):
                await sink.holds(stale)
        await sink.close()
        sink = place.open()
        assert isinstance(sink, Remembering)
        assert await sink.holds(published(12))
        # Asking changes nothing: it goes on as before.
        await sink.anchor(published(13, known_size=12))
        # It is not the place it was where it once took more than it has; nothing changes there.
        assert not await sink.holds(published(40, known_size=14))
        # But what is behind may take the checkpoint that it is asked about.
        assert await sink.holds(published(40))
        await sink.anchor(published(41, known_size=13))
        await sink.close()

    async def test_what_lists_names_the_logs_that_it_holds(self, place: Place) -> None:
        """At a start it is asked for logs that the database has forgotten (`Listing`)."""
        sink = place.open()
        if not isinstance(sink, Listing):
            await sink.close()
            pytest.skip("this sink cannot be listed")
        assert list(await sink.origins("log.test/")) == []
        assert await sink.checkpoint_of(LOG.origin) is None
        elsewhere = TinyLog("log.testing/sinks")
        for each in (published(7), published(3, log=elsewhere)):
            await sink.anchor(each)
        await sink.anchor(published(12, known_size=7))
        await sink.close()
        sink = place.open()
        assert isinstance(sink, Listing)
        assert list(await sink.origins("log.test/")) == [LOG.origin]
        assert set(await sink.origins("log.test")) == {LOG.origin, elsewhere.origin}
        assert await sink.checkpoint_of(LOG.origin) == LOG.checkpoint(12)
        assert await sink.checkpoint_of("log.test/other") is None
        await sink.close()

    async def test_another_history_is_refused_however_large_ours_has_grown(
        self, place: Place
    ) -> None:
        """A copy of our log from size 2, put back while the sink was away, has grown to 7."""
        sink = place.open()
        if not isinstance(sink, Remembering):
            await sink.close()
            pytest.skip("this sink remembers nothing")
        await sink.anchor(published(2))
        await sink.anchor(published(5, known_size=2))
        await sink.close()
        sink = place.open()
        assert isinstance(sink, Remembering)
        forked = published(7, known_size=2, log=OTHER)
        with pytest.raises(SinkIntegrityError):
            await sink.holds(forked)
        with pytest.raises(SinkIntegrityError):
            await sink.anchor(forked)
        # What it never acknowledged, and is of ours, is no reason to refuse the true one.
        assert await sink.holds(published(7, known_size=2))
        await sink.anchor(published(7, known_size=2))
        await sink.close()

    async def test_name_has_no_credentials_and_stays(self, place: Place) -> None:
        first, second = place.open(), place.open()
        assert first.uri == second.uri
        assert "@" not in first.uri
        await first.close()
        await second.close()
        await second.close()
