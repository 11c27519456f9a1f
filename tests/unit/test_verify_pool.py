"""Checking an export on several cores finds what checking it on one finds."""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from provledger import verify_pool
from provledger.errors import VerificationError
from provledger.export import Checked, ExportHeader, verify_export
from provledger.keyset import KeySet
from provledger.known_trees import KnownTrees
from provledger.outside import Outside
from provledger.policy import Policy
from tests.support.chain import Chain, key_set, make_token, mutation

KEYS = key_set()
SPAWN = multiprocessing.get_context("spawn")
LIMIT_S = 60
LONG = 60


@pytest.fixture(scope="module")
def lines() -> list[bytes]:
    chain = Chain()
    chain.append([mutation(seq) for seq in range(1, 60)])
    return chain.export()


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes start early, and pieces end within what the tests make."""
    make_pieces_small(monkeypatch)


def make_pieces_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_pool, "ALONE_LINES", 7)
    monkeypatch.setattr(verify_pool, "_PIECE_LINES", 5)


def long_lines() -> list[bytes]:
    """Lines of which a piece is more than any pipe holds."""
    chain = Chain()
    chain.append([("evidence.load", {"number": n, "text": "t" * 100_000}) for n in range(1, LONG)])
    return chain.export()


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


def cut_off(lines: list[bytes], at: int) -> Iterator[bytes]:
    yield from lines[:at]
    raise EOFError


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(("at", "end"), [(4, 6), (30, 31), (30, 33), (30, 50), (30, 61)])
def test_what_is_wrong_stays_found_where_the_file_cannot_be_read_on(
    lines: list[bytes], jobs: int, at: int, end: int
) -> None:
    made = verify_pool.check_lines(KEYS, jobs=jobs)
    for changed in (with_payload_changed(lines, at), [*lines[:at], *lines[at + 1 :]]):
        with pytest.raises(VerificationError) as caught:
            verify_export(cut_off(changed, end), KEYS, check_lines=made)
        assert caught.value.line == at + 1
    with pytest.raises(EOFError):
        verify_export(cut_off(lines, end), KEYS, check_lines=made)


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


def test_processes_know_the_trees_that_were_met_before() -> None:
    """What is in another one is left to us, so that the first receipt of it is named."""
    chain, fork = Chain(), Chain()
    for each, last in ((chain, b"others"), (fork, b"theirs")):
        each.append([mutation(seq) for seq in range(1, 60)])
        each.leaves.append(last)

    def checked_elsewhere(known: KnownTrees | None) -> bool:
        made = verify_pool.check_lines(KEYS, known=known, jobs=2)
        lines = chain.export()
        return any(link is not None for _, link in made(chain.header(), lines[1:-1]))

    assert checked_elsewhere(None)
    assert checked_elsewhere(KnownTrees(verify_export(chain.export(), KEYS).trees))
    assert not checked_elsewhere(KnownTrees(verify_export(fork.export(), KEYS).trees))


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


def verify_with_one_killed(found: Connection[Any, Any]) -> None:
    """Tell how many lines were left to this process when one of two died that had pieces."""
    make_pieces_small(pytest.MonkeyPatch())
    made = verify_pool.check_lines(KEYS, jobs=2)
    killed = False
    left_to_us = 0

    def killing(header: ExportHeader, source: Iterable[bytes]) -> Checked:
        nonlocal killed, left_to_us
        for line, link in made(header, source):
            if link is not None and not killed:
                killed = True
                multiprocessing.active_children()[0].kill()
            left_to_us += link is None
            yield line, link

    report = verify_export(long_lines(), KEYS, check_lines=killing)
    found.send((report.count, killed, left_to_us))


def verify_with_processes_interrupted(found: Connection[Any, Any]) -> None:
    """Tell how many lines were left to this process when the others had Ctrl-C as they started."""
    make_pieces_small(pytest.MonkeyPatch())
    made = verify_pool.check_lines(KEYS, jobs=2)
    interrupted: set[int | None] = set()
    left_to_us = 0

    def interrupting(source: Iterable[bytes]) -> Iterator[bytes]:
        for line in source:
            for process in multiprocessing.active_children():
                if process.pid and process.pid not in interrupted:
                    interrupted.add(process.pid)
                    os.kill(process.pid, signal.SIGINT)
            yield line

    def counting(header: ExportHeader, source: Iterable[bytes]) -> Checked:
        nonlocal left_to_us
        for line, link in made(header, interrupting(source)):
            left_to_us += link is None
            yield line, link

    report = verify_export(long_lines(), KEYS, check_lines=counting)
    found.send((report.count, len(interrupted), left_to_us))


def verify_until_killed(found: Connection[Any, Any]) -> None:
    """Tell the processes that check lines, then wait for the end with pieces under way."""
    make_pieces_small(pytest.MonkeyPatch())
    made = verify_pool.check_lines(KEYS, jobs=2)

    def waiting(header: ExportHeader, source: Iterable[bytes]) -> Checked:
        for line, link in made(header, source):
            if link is not None:
                found.send([process.pid for process in multiprocessing.active_children()])
                threading.Event().wait()
            yield line, link

    verify_export(long_lines(), KEYS, check_lines=waiting)


@contextmanager
def started(target: Callable[[Connection[Any, Any]], None]) -> Iterator[tuple[BaseProcess, Any]]:
    """Start a process that may hang or be killed; give it and what it tells."""
    ours, theirs = SPAWN.Pipe()
    process = SPAWN.Process(target=target, args=(theirs,))
    process.start()
    theirs.close()
    try:
        assert ours.poll(LIMIT_S), "it hangs"
        yield process, ours.recv()
    finally:
        process.kill()
        process.join()
        ours.close()


def test_one_killed_process_costs_its_piece_however_full_the_pipes_are() -> None:
    with started(verify_with_one_killed) as (_, (count, killed, left_to_us)):
        assert (count, killed) == (LONG, True)
        assert left_to_us <= verify_pool.ALONE_LINES + verify_pool._PIECE_LINES


def test_ctrl_c_is_not_for_processes_not_even_while_they_start() -> None:
    with started(verify_with_processes_interrupted) as (_, (count, interrupted, left_to_us)):
        assert (count, interrupted) == (LONG, 2)
        assert left_to_us == verify_pool.ALONE_LINES


def test_processes_end_when_the_one_that_started_them_is_killed() -> None:
    with started(verify_until_killed) as (process, pids):
        assert len(pids) == 2
        workers = [os.pidfd_open(pid) for pid in pids]
        try:
            process.kill()
            for worker in workers:
                # It can be read from once the process has ended.
                assert select.select([worker], [], [], LIMIT_S)[0], "it was left behind"
        finally:
            for worker in workers:
                os.close(worker)


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
