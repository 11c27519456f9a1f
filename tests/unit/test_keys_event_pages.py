"""Pages of key events: all of them once and in order, whatever happens between two pages."""

from __future__ import annotations

import pytest

from keys_svc import convert, journal, paging
from keys_svc.registry import EventState, Registry
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import FailedPreconditionError, InvalidArgumentError
from provledger.keyset import KeyPurpose
from tests.unit.test_key_events import C1, H1, R1, W1, W2, W3
from tests.unit.test_keys_journal import binding, carry, rotate
from tests.unit.test_keys_registry import key


def begun() -> Registry:
    """Three events in the key ledger, two on their way to it."""
    registry = Registry()
    for each, purpose in zip((W1, C1, H1), KeyPurpose, strict=False):
        registry = registry.create(binding(each, purpose), 10)
    registry = carry(journal.propose_genesis(registry, binding(R1), 20))
    return rotate(carry(rotate(registry, W2)), W3, 600)


def listed(registry: Registry, size: int, token: str = "") -> pb.ListKeyEventsResponse:
    request = pb.ListKeyEventsRequest(page_size=size, page_token=token)
    return convert.list_key_events(registry, request)


def pages(registry: Registry, size: int) -> list[list[bytes]]:
    found, token, more = [], "", True
    while more:
        page = listed(registry, size, token)
        found.append([each.digest for each in page.events])
        token = page.next_page_token
        more = bool(token)
    return found


def test_whoever_asks_for_no_page_gets_all() -> None:
    """As one does that was there before the pages."""
    whole = listed(begun(), 0)
    states = [each.state for each in whole.events]
    assert states == [pb.KEY_EVENT_STATE_RECORDED] * 3 + [pb.KEY_EVENT_STATE_PROPOSED] * 2
    assert whole.next_page_token == ""


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 100_000])
def test_pages_hold_all_events_once_and_in_order(size: int) -> None:
    registry = begun()
    digests = [each.digest for each in listed(registry, 0).events]
    found = pages(registry, size)
    assert [each for page in found for each in page] == digests
    assert {len(page) for page in found[:-1]} <= {size}


def test_a_page_ends_before_it_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "PAGE_BYTES", 1)
    assert [len(page) for page in pages(begun(), 1000)] == [1] * 5
    assert len(listed(begun(), 0).events) == 5


def test_an_event_that_is_sealed_between_two_pages_is_on_one() -> None:
    registry = begun()
    first = listed(registry, 4)
    rotated = journal.open_events(registry)[1].signed.event
    assert rotated.digest() not in [each.digest for each in first.events]
    after = carry(registry, now_ns=700)
    assert journal.find(after, rotated.digest()).state is EventState.RECORDED
    last = listed(after, 4, first.next_page_token)
    assert [each.digest for each in last.events][-1] == rotated.digest()
    assert last.next_page_token == ""
    places = [each.payload for each in [*first.events, *last.events] if each.payload]
    assert places == [each.signed.encode() for each in journal.in_order(after)]


def test_what_is_no_page_is_refused() -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        listed(begun(), -1)
    assert [each.field for each in caught.value.violations] == ["page_size"]
    other = paging.page_token(1, "ListKeys of any purpose")
    for token in (other, "no token"):
        with pytest.raises(InvalidArgumentError) as caught:
            listed(begun(), 1, token)
        assert caught.value.reason == "INVALID_PAGE_TOKEN"
    assert "ListKeyEvents gave out" in caught.value.message


def test_so_many_keys_may_be_pending_that_one_message_holds_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("keys_svc.registry.MAX_PENDING", 2)
    registry = Registry()
    for number in (1, 2, 3):
        registry = registry.create(key(number), number)
    with pytest.raises(FailedPreconditionError, match="2 keys are pending") as caught:
        registry.create(key(4), 4)
    assert caught.value.reason == "TOO_MANY_KEYS"
    # The first of a purpose is active at once, and one that is known is not added.
    assert registry.create(key(3), 4) == registry
    freed = registry.revoke("k3", "not used", 5)
    assert freed.create(key(4), 6).get("k4").epoch == 0
