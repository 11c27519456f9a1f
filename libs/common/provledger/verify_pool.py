"""Checking the lines of an export on every core, in processes of our own.

What a receipt is checked for needs no other receipt, so lines are handed out in pieces and come
back as links, in order; `provledger.export` ties the links together and checks again, at home,
whatever did not hold. So a process that dies costs time and nothing else, and what is wrong is
said in one place.

Memory is bounded by the pieces under way: a few for each process.
"""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from typing import Final

from provledger.errors import ProvledgerError
from provledger.export import Checked, CheckLines, ExportHeader, LineVerifier, Link, look_at_none
from provledger.keyset import KeySet
from provledger.outside import NOBODY, Outside
from provledger.revocation import Trees
from provledger.verify import Verifier

ALONE_LINES: Final = 2_048
"""Lines that are checked before processes are started: for fewer they are not worth it."""
_PIECE_LINES: Final = 256
_PIECE_BYTES: Final = 4 * 1024 * 1024
_AHEAD: Final = 3  # pieces under way for each process


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_lines(
    keys: KeySet, outside: Outside = NOBODY, *, trees: Trees | None = None, jobs: int = 0
) -> CheckLines:
    """A `CheckLines` that uses `jobs` processes, 0 for one a core; see `verify_export`.

    What others say (`outside`) is asked where the caller is: with it, no process is started.
    """
    jobs = jobs or cores()
    if jobs == 1 or outside != NOBODY:
        return look_at_none

    def check(header: ExportHeader, lines: Iterable[bytes]) -> Checked:
        reader = iter(lines)
        for line in islice(reader, ALONE_LINES):
            yield line, None
        first = _piece(reader)
        if first:
            yield from _check_in_processes(
                header, first, reader, jobs, (keys.encode(), dict(trees or {}))
            )

    return check


def _check_in_processes(
    header: ExportHeader,
    first: list[bytes],
    reader: Iterator[bytes],
    jobs: int,
    trusted: tuple[bytes, Trees],
) -> Checked:
    # Not forked: the parent may hold threads, and locks of theirs.
    pool = ProcessPoolExecutor(
        jobs, get_context("spawn"), initializer=_start, initargs=(header, *trusted)
    )
    under_way: deque[tuple[list[bytes], Future[list[Link]]]] = deque()
    lines: list[bytes] = []
    piece = first
    try:
        while piece or under_way:
            while piece and len(under_way) < _AHEAD * jobs:
                under_way.append((piece, pool.submit(_check, piece)))
                piece = _piece(reader)
            lines, future = under_way.popleft()
            links = future.result()
            yield from zip(lines, links, strict=False)
            lines = lines[len(links) :]
            if lines:
                # The first of them does not hold; nothing after it needs to be looked at.
                break
    except BrokenProcessPool:
        pass  # A process was killed. What it had is checked by the caller.
    finally:
        # Waits for the pieces that were begun, no more.
        pool.shutdown(cancel_futures=True)
    waiting = [more for more, _ in under_way]
    yield from look_at_none(header, chain(lines, *waiting, piece, reader))


def _piece(reader: Iterator[bytes]) -> list[bytes]:
    lines: list[bytes] = []
    size = 0
    for line in reader:
        lines.append(line)
        size += len(line)
        if len(lines) == _PIECE_LINES or size > _PIECE_BYTES:
            break
    return lines


_here: list[LineVerifier] = []
"""In a process of the pool: the one that checks its lines."""


def _start(header: ExportHeader, jwks: bytes, trees: Trees) -> None:
    # Ctrl-C goes to the whole group; the parent ends us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _here[:] = [LineVerifier(header, Verifier(jwks, trees=trees))]


def _check(lines: Sequence[bytes]) -> list[Link]:
    """The links of lines, up to the first that does not hold."""
    (verifier,) = _here
    links: list[Link] = []
    try:
        for line in lines:
            links.append(verifier.check(verifier.read(line)))
    except ProvledgerError:
        pass
    return links
