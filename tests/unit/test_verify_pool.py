"""Checking an export on several cores finds what checking it on one finds."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable

import pytest

from provledger import verify_pool
from provledger.errors import VerificationError
from provledger.export import Checked, ExportHeader, verify_export
from provledger.keyset import KeySet
from provledger.outside import Outside
from provledger.policy import Policy
from tests.support.chain import Chain, key_set, make_token, mutation

KEYS = key_set()


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    chain = Chain()
    chain.append([mutation(seq) for seq in range(1, 60)])
    return chain.export()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes start early, and pieces end within what the tests make."""
    monkeypatch.setattr(verify_pool, "ALONE_LINES", 7)
    monkeypatch.setattr(verify_pool, "_PIECE_LINES", 5)


def outcome(lines: list[bytes], jobs: int) -> object:
    """Return the report of verifying, or what was raised."""
    try:
        return verify_export(lines, KEYS, check_lines=verify_pool.check_lines(KEYS, jobs=jobs))
    except VerificationError as error:
        return error.check, error.finding, error.receipt, error.line, str(error)


def with_payload_changed(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], lines[at].replace(b"2024-01-02", b"2024-01-03"), *lines[at + 1 :]]


def swapped(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: lines,
        lambda lines: with_payload_changed(lines, 30),
        lambda lines: [*lines[:40], *lines[41:]],
        lambda lines: swapped(lines, 25),
        lambda lines: [*lines[:33], lines[32], *lines[33:]],
        lambda lines: [*lines[:-2], lines[-1]],
        lambda lines: lines[:-1],
        lambda lines: [*lines[:20], b"{}\n", *lines[20:]],
        lambda lines: [*lines, b"\n"],
        lambda lines: [*lines[:3], lines[3].replace(b"e", b"f", 1), *lines[4:]],
    ],
    ids="good payload deleted swapped twice last-gone no-footer junk after-end early".split(),
)
def test_several_processes_find_what_one_finds(change, lines: list[bytes]) -> None:
    changed = change(lines)
    expected = outcome(changed, jobs=1)
    assert isinstance(expected, tuple) == (changed != lines)
    assert outcome(changed, jobs=2) == expected


def test_two_uses_of_one_token_are_found_by_processes_that_see_one_each() -> None:
    chain = Chain()
    chain.append([mutation(1)], signer="token", token=make_token(use=5))
    chain.append([mutation(seq) for seq in range(2, 40)])
    chain.append([mutation(40)], signer="token", token=make_token(use=5))
    chain.append([mutation(seq) for seq in range(41, 60)])
    expected = outcome(chain.export(), jobs=1)
    assert isinstance(expected, tuple)
    assert "its key was copied" in expected[4]
    assert outcome(chain.export(), jobs=2) == expected


def test_a_killed_process_costs_nothing_but_time(lines: list[bytes]) -> None:
    made = verify_pool.check_lines(KEYS, jobs=2)
    from_pool = 0

    def killing(header: ExportHeader, source: Iterable[bytes]) -> Checked:
        nonlocal from_pool
        for line, link in made(header, source):
            if link is not None and not from_pool:
                for process in multiprocessing.active_children():
                    process.kill()
            from_pool += link is not None
            yield line, link

    report = verify_export(lines, KEYS, check_lines=killing)
    assert report.count == 60
    assert from_pool > 0


def test_processes_end_with_the_verification(lines: list[bytes]) -> None:
    broken = with_payload_changed(lines, 30)
    with pytest.raises(VerificationError):
        verify_export(broken, KEYS, check_lines=verify_pool.check_lines(KEYS, jobs=2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(("outside", "jobs"), [(Outside(Policy()), 2), (Outside(), 1)])
def test_no_process_is_started_where_none_can_help(
    outside: Outside, jobs: int, lines: list[bytes]
) -> None:
    check = verify_pool.check_lines(KeySet(KEYS), outside, jobs=jobs)
    report = verify_export(lines, KEYS, outside=outside, check_lines=check)
    assert report.count == 60
    assert not multiprocessing.active_children()
