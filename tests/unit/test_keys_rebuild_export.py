"""Which exports `keys rebuild` takes the key events of."""

from __future__ import annotations

from pathlib import Path

import pytest

from provledger.errors import UnknownEventError, VerificationError
from provledger.export import ConsistencyProof
from provledger.key_ledger import verify_by_earlier
from provledger.keyset import CoveredCheckpoint
from provledger_cli.failures import DOES_NOT_HOLD, CommandError
from provledger_cli.verbs.keys_rebuild import _exported
from tests.support.chain import ORIGIN, sample_chain
from tests.support.key_history import PIN, in_one_log, key_chain, record, replaced


def exported(path: Path, *, with_earlier: bool) -> Path:
    """An export that carries a key ledger, against a checkpoint that a revoked key signed."""
    named = CoveredCheckpoint(ORIGIN, 2, key_chain().root_hash(2))
    keys = key_chain(replaced("checkpoint-1", "checkpoint-2", "checkpoint", named))
    chain = sample_chain((3,))
    in_one_log(chain, keys)
    size = len(keys.leaves)
    for each in (chain, keys):
        each.leaves.append(b"it waited")
    earlier: list[ConsistencyProof] = []
    if with_earlier:
        earlier = [keys.consistency(size, log_key="checkpoint-2")]
    path.write_bytes(b"".join(chain.export(key_ledger=keys.export(), consistency=earlier)))
    return path


def test_an_earlier_checkpoint_in_the_footer_proves_them(tmp_path: Path) -> None:
    events = _exported(exported(tmp_path / "x.ndjson", with_earlier=True), PIN)
    assert [signed.event.event for signed, _ in events][-1] == "key.revoked"
    assert len(events) == 4


def test_without_one_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as caught:
        _exported(exported(tmp_path / "x.ndjson", with_earlier=False), PIN)
    assert caught.value.exit_code == DOES_NOT_HOLD
    assert "is signed by a revoked key alone" in caught.value.message
    assert "--earlier" in caught.value.hint
    assert "newest copy" in caught.value.hint


def test_another_pin_is_refused_as_ever(tmp_path: Path) -> None:
    with pytest.raises(VerificationError, match="pin"):
        _exported(exported(tmp_path / "x.ndjson", with_earlier=True), bytes(32))


def test_an_event_of_a_later_version_is_not_passed_over(tmp_path: Path) -> None:
    """It may revoke a key that would be active again."""
    named = CoveredCheckpoint(ORIGIN, 2, key_chain().root_hash(2))
    *first, revoked = replaced("witness-1", "witness-2", "witness", named)
    keys = key_chain(first)
    record(keys, revoked, receipt_type="key.foo")
    path = tmp_path / "keys.ndjson"
    path.write_bytes(b"".join(keys.export()))
    with pytest.raises(UnknownEventError, match="newer version"):
        _exported(path, PIN)


def test_nor_is_it_where_an_earlier_checkpoint_proves_the_others() -> None:
    named = CoveredCheckpoint(ORIGIN, 2, key_chain().root_hash(2))
    keys = key_chain(replaced("checkpoint-1", "checkpoint-2", "checkpoint", named))
    record(keys, replaced("witness-1", "witness-2", "witness", named)[0], receipt_type="key.foo")
    size = len(keys.leaves)
    keys.leaves.append(b"it waited")
    earlier = [keys.consistency(size, log_key="checkpoint-2")]
    with pytest.raises(UnknownEventError):
        verify_by_earlier(keys.export(), PIN, earlier)
