"""`provledger verify` where it is asked for nothing, and of what is only partly shown to hold."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.chain import key_set, sample_chain, with_changes
from tests.support.key_history import PIN, in_one_log, key_chain
from tests.unit.test_cli_verify import in_words, verify

KEYED = ("export.ndjson", "--keys", "jwks.json")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with a key ledger, and the keys."""
    folder = tmp_path_factory.mktemp("untold")
    chain, keys = sample_chain((5,)), key_chain()
    in_one_log(chain, keys)
    (folder / "export.ndjson").write_bytes(b"".join(chain.export(key_ledger=keys.export())))
    (folder / "jwks.json").write_bytes(key_set().encode())
    return folder


@pytest.mark.parametrize("pin", ["", " ", "00"])
def test_a_pin_that_is_none_is_not_left_out(work: Path, pin: str) -> None:
    """Beside --keys as well: who gives it would take what holds for a yes to it."""
    code, _, talk = in_words(work, *KEYED, "--pin", pin)
    assert (code, "--pin" in talk) == (2, True)


@pytest.mark.parametrize("uid", ["", " ", "\t", f"{'00' * 8} {'00' * 8}", "00" * 15, "00" * 17])
def test_a_uid_that_is_none_is_not_left_out(work: Path, uid: str) -> None:
    """What has blanks in it would be read without them, and blanks alone as nothing."""
    code, _, talk = in_words(work, "export.ndjson", "--pin", PIN.hex(), "--key-ledger-uid", uid)
    assert (code, "--key-ledger-uid" in talk) == (2, True)


def test_unverified_receipts_of_an_export_are_counted_and_the_first_named(work: Path) -> None:
    chain = sample_chain((5,))
    receipts = [*chain.receipts()]
    for at in (2, 4):
        receipts[at] = with_changes(receipts[at], proofs=())
    (work / "some.ndjson").write_bytes(b"".join(chain.export(receipts)))
    code, answer, _ = verify(work, "some.ndjson", *KEYED[1:])
    assert (code, answer["unverified_receipts"]) == (2, 2)
    assert answer["first_unverified"] == {"receipt": receipts[2].name, "line": 4}
    code, lines, _ = in_words(work, "some.ndjson", *KEYED[1:])
    assert code == 2
    assert ", 2 of them unverified, first at line 4; see what" in lines[-1]
    assert verify(work, *KEYED)[1]["first_unverified"] is None
