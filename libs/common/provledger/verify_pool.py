"""Checking the lines of an export on every core, in processes of our own.

What a receipt is checked for needs no other receipt, so lines are handed out in pieces and come
back as links, in order; `provledger.export` ties the links together and checks again, at home,
whatever did not hold. So a process that dies costs time and nothing else, and what is wrong is
said in one place.

Each process has a pipe of its own, of which nobody else holds an end: whichever side dies, the pipe
tells the other. One piece at a time is sent, to a process that waits for it.

Memory is bounded by the pieces under way: a few for each process.
"""

from __future__ import annotations

import os
import selectors
import signal
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from multiprocessing import get_context, resource_tracker
from multiprocessing.connection import Connection
from typing import Any, Final, TypeAlias

from provledger.export import Checked, CheckLines, ExportHeader, LineVerifier, Link, look_at_none
from provledger.keyset import KeySet
from provledger.known_trees import KnownTrees
from provledger.outside import NOBODY, Outside
from provledger.revocation import Trees
from provledger.verify import Verifier

ALONE_LINES: Final = 2_048
"""Lines that are checked before processes are started: for fewer they are not worth it."""
_PIECE_LINES: Final = 256
_PIECE_BYTES: Final = 4 * 1024 * 1024
_AHEAD: Final = 3  # pieces under way for each process
_LINES_A_LOOK: Final = 64  # that are given back before processes that wait are given more
_HELD: Final = (signal.SIGINT, signal.SIGTERM)  # while processes start

_Trusted: TypeAlias = tuple[ExportHeader, bytes, Trees, Trees]
_Pipe: TypeAlias = "Connection[Any, Any]"


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_lines(
    keys: KeySet,
    outside: Outside = NOBODY,
    *,
    trees: Trees | None = None,
    known: KnownTrees | None = None,
    jobs: int = 0,
) -> CheckLines:
    """A `CheckLines` that uses `jobs` processes, 0 for one a core; see `verify_export`.

    What others say (`outside`) is asked where the caller is: with it, no process is started.
    """
    jobs = jobs or cores()
    if jobs == 1 or outside != NOBODY:
        return look_at_none

    def check(header: ExportHeader, lines: Iterable[bytes]) -> Checked:
        reader = _Reader(lines)
        for line in islice(reader, ALONE_LINES):
            yield line, None
        first = _piece(reader)
        if first:
            met = {} if known is None else known.snapshot()
            trusted = header, keys.encode(), dict(trees or {}), met
            yield from _check_in_processes(first, reader, jobs, trusted)
        reader.raise_held()

    return check


class _Reader:
    """Reads lines; whatever ends that early is held until those that were read are checked.

    Lines are read ahead, and what is wrong with one is no less so if the file is damaged behind it.
    """

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)
        self._held: Exception | None = None

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> bytes:
        if self._held is None:
            try:
                return next(self._lines)
            except StopIteration:
                raise
            except Exception as error:
                self._held = error
        raise StopIteration

    def raise_held(self) -> None:
        """Raise what ended the lines, if anything but their end did."""
        if self._held is not None:
            raise self._held


def _check_in_processes(
    first: list[bytes], reader: Iterator[bytes], jobs: int, trusted: _Trusted
) -> Checked:
    processes = _Processes(trusted)
    under_way: deque[_Piece] = deque()
    lines: list[bytes] = []
    piece = first
    try:
        processes.start(jobs)
        while piece or under_way:
            while piece and len(under_way) < _AHEAD * jobs:
                under_way.append(processes.submit(piece))
                piece = _piece(reader)
            lines, links = processes.finish(under_way.popleft())
            for at, checked in enumerate(zip(lines, links, strict=False)):
                if at % _LINES_A_LOOK == 0:
                    processes.look()
                yield checked
            lines = lines[len(links) :]
            if lines:
                # The first of them does not hold, and nothing after it needs to be looked at; or
                # no process is left.
                break
    finally:
        processes.kill()
    waiting = [more.lines for more in under_way]
    yield from look_at_none(trusted[0], chain(lines, *waiting, piece, reader))


def _piece(reader: Iterator[bytes]) -> list[bytes]:
    lines: list[bytes] = []
    size = 0
    for line in reader:
        lines.append(line)
        size += len(line)
        if len(lines) == _PIECE_LINES or size > _PIECE_BYTES:
            break
    return lines


@dataclass(slots=True)
class _Piece:
    """Lines and, once they came back, their links, up to the first line that does not hold.

    None for each of them if the process that had them died.
    """

    lines: list[bytes]
    links: Sequence[Link | None] | None = None


class _Processes:
    """Processes that check pieces, each one at a time; those that die are not replaced."""

    def __init__(self, trusted: _Trusted) -> None:
        self._trusted = trusted
        self._workers: list[_Worker] = []
        # Has the pipes of those that are not known to be gone.
        self._selector = selectors.DefaultSelector()
        self._free: list[_Worker] = []
        self._waiting: deque[_Piece] = deque()

    def start(self, jobs: int) -> None:
        """Start so many processes; they are free once they say so."""
        # It lets signals through when it starts, so that has to be before they are held.
        resource_tracker.ensure_running()
        # A process inherits what is held: Ctrl-C, which goes to the whole group, waits in it too.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        try:
            for _ in range(jobs):
                worker = _Worker(self._trusted)
                self._workers.append(worker)
                self._selector.register(worker.pipe, selectors.EVENT_READ, worker)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def submit(self, lines: list[bytes]) -> _Piece:
        """Have lines checked by the next process that is free."""
        piece = _Piece(lines)
        self._waiting.append(piece)
        self.look()
        return piece

    def finish(self, piece: _Piece) -> tuple[list[bytes], Sequence[Link | None]]:
        """Wait until a piece came back; without links if no process is left that could check it."""
        while piece.links is None and self._selector.get_map():
            self.look(None)
        return piece.lines, piece.links or ()

    def look(self, timeout_s: float | None = 0) -> None:
        """Take what came back within that time (None: wait for it), and give out what waits."""
        for key, _ in self._selector.select(timeout_s):
            worker: _Worker = key.data
            if worker.receive():
                self._free.append(worker)
            else:
                self._forget(worker)
        while self._free and self._waiting:
            worker = self._free.pop()
            if not worker.check(self._waiting.popleft()):
                self._forget(worker)

    def kill(self) -> None:
        """End all of them, whatever they are at: they hold nothing that could be left behind."""
        for worker in self._workers:
            worker.kill()
        self._selector.close()

    def _forget(self, worker: _Worker) -> None:
        self._selector.unregister(worker.pipe)
        if worker in self._free:
            self._free.remove(worker)


class _Worker:
    """A process, our end of its pipe, and the piece that it has, if any."""

    def __init__(self, trusted: _Trusted) -> None:
        # Not forked: the parent may hold threads, and locks of theirs.
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self._trusted = trusted
        self._piece: _Piece | None = None
        # What it trusts is not among its arguments: `start` would wait for ever for a process that
        # was killed before it took them, if they are long.
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        # Only with this end closed are we told when the process dies.
        theirs.close()

    def receive(self) -> bool:
        """Take what it has to say, after which it is free; False if it is gone."""
        piece = self._piece
        try:
            links = self.pipe.recv()
            if piece is None:
                self.pipe.send(self._trusted)  # It has just started.
        except (EOFError, OSError):
            self._lose()
            return False
        if piece is not None:
            piece.links = links
        self._piece = None
        return True

    def check(self, piece: _Piece) -> bool:
        """Have it check a piece, while it is free; False if it is gone."""
        self._piece = piece
        try:
            self.pipe.send(piece.lines)
        except OSError:
            self._lose()
            return False
        return True

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.join()
        self.pipe.close()

    def _lose(self) -> None:
        # No other process gets the piece: it may be what the process died of.
        if self._piece is not None:
            self._piece.links = [None] * len(self._piece.lines)


def _serve(pipe: _Pipe) -> None:
    """Be a process: say that it started, take what it trusts, then check a piece at a time."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The parent ends us.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
    # So the pipe ends when the parent is gone.
    with suppress(EOFError, OSError):
        pipe.send(None)
        header, jwks, trees, met = pipe.recv()
        verifier = LineVerifier(header, Verifier(jwks, trees=trees, known=KnownTrees(met)))
        while True:
            pipe.send(_check(verifier, pipe.recv()))


def _check(verifier: LineVerifier, lines: Sequence[bytes]) -> list[Link]:
    """The links of lines, up to the first that does not hold."""
    links: list[Link] = []
    # Whatever is wrong with that one is found again, and said, at home.
    with suppress(Exception):
        for line in lines:
            links.append(verifier.check(verifier.read(line)))
    return links
