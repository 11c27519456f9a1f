"""Known answers for payload commitments (`derived/fields-v1.json`), from a reference of its own."""

from __future__ import annotations

from typing import Any

import pytest

from provledger import disclosure, jcs
from provledger.errors import VerificationError
from tests.conformance.vectors import cases

_FILE = "derived/fields-v1.json"

fields_cases = pytest.mark.parametrize(
    "case", cases(_FILE, lambda file: ((case["name"], case) for case in file["fields"]))
)


def _payload(case: Any) -> tuple[Any, bytes]:
    """Return the payload as our own parser reads it, and the secret."""
    return jcs.parse(case["payload_jcs"].encode()), bytes.fromhex(case["secret_hex"])


@fields_cases
def test_payload_is_canonical(case: Any) -> None:
    assert jcs.encode(case["payload"]).decode() == case["payload_jcs"]


@fields_cases
def test_disclosures(case: Any) -> None:
    value, secret = _payload(case)
    made = disclosure.disclose_all(value, secret, mutation=case["mutation"])
    assert [[opened.pointer, opened.text] for opened in made] == case["disclosures"]


@fields_cases
def test_digest_list_holds_digests_and_decoys(case: Any) -> None:
    value, secret = _payload(case)
    made = disclosure.digest_list(value, secret, mutation=case["mutation"])
    assert [digest.hex() for digest in made] == case["list_hex"]
    assert {bytes.fromhex(decoy) for decoy in case["decoys_hex"]} <= set(made)


@fields_cases
def test_root(case: Any) -> None:
    value, secret = _payload(case)
    made = disclosure.commit_fields(value, secret, mutation=case["mutation"])
    assert made.root.hex() == case["root_hex"]
    assert made.size == len(case["list_hex"])


@fields_cases
def test_disclosures_verify_against_the_root(case: Any) -> None:
    digests = [bytes.fromhex(digest) for digest in case["list_hex"]]
    texts = [text for _, text in case["disclosures"]]
    shown = disclosure.verify_disclosures(bytes.fromhex(case["root_hex"]), texts, digests)
    assert list(shown) == [pointer for pointer, _ in case["disclosures"]]


@fields_cases
def test_damaged_root_is_refused(case: Any) -> None:
    root = bytearray.fromhex(case["root_hex"])
    root[0] ^= 1
    digests = [bytes.fromhex(digest) for digest in case["list_hex"]]
    with pytest.raises(VerificationError, match="does not make the root"):
        disclosure.verify_disclosures(bytes(root), [], digests)


@pytest.mark.parametrize(
    "case", cases(_FILE, lambda file: ((case["media_type"], case) for case in file["blob"]))
)
def test_blob_root(case: Any) -> None:
    data, salt = bytes.fromhex(case["data_hex"]), bytes.fromhex(case["salt_hex"])
    made = disclosure.commit_blob(case["media_type"], data, salt)
    assert made.root.hex() == case["root_hex"]
    assert (made.profile, made.size) == ("blob-v1", 0)
