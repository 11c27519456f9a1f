"""A listing that does not come to an end is told from a long one."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from provledger.client import paging
from provledger.client.paging import Pages
from provledger.errors import InternalError


def _turn(pages: Pages, tokens: Iterable[str]) -> None:
    for token in tokens:
        pages.turn(token, 1)


def test_a_long_listing_ends_at_its_last_page() -> None:
    pages = Pages()
    assert (pages.more, pages.token) == (True, "")
    for number in range(1, 5000):
        pages.turn(str(number), 1)
        assert (pages.more, pages.token) == (True, str(number))
    pages.turn("", 0)
    assert not pages.more


@pytest.mark.parametrize("before", [0, 1, 2, 7, 100])
@pytest.mark.parametrize("length", [1, 2, 3, 50])
def test_tokens_that_go_round_are_noticed(before: int, length: int) -> None:
    circle = itertools.cycle(f"round-{number}" for number in range(length))
    tokens = itertools.chain((f"first-{number}" for number in range(before)), circle)
    with pytest.raises(InternalError, match="second time") as caught:
        _turn(Pages(), itertools.islice(tokens, 4 * (before + length) + 2))
    assert caught.value.reason == "BAD_RESPONSE"


def test_a_token_that_comes_again_at_once_is_noticed_at_once() -> None:
    pages = Pages()
    for number in range(6):
        pages.turn(str(number), 1)
    with pytest.raises(InternalError, match="second time"):
        pages.turn("5", 1)


def test_empty_pages_are_passed_but_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "MAX_EMPTY_PAGES", 3)
    pages = Pages()
    for number, items in enumerate([0, 0, 0, 1, 0, 0, 0]):
        pages.turn(str(number), items)
    with pytest.raises(InternalError, match="3 pages in a row are empty") as caught:
        pages.turn("last", 0)
    assert caught.value.reason == "BAD_RESPONSE"
