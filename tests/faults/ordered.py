"""What a service does to files, in its order: that nothing has a name, or is told of, too early.

A process that is killed loses nothing that it wrote; a machine that loses power keeps of a file
what was synced, and of a directory the names that were there then. So, of what strace saw of an
anchor that began in an empty directory:

    each scratch file         written, synced, named
    tiles, bundles            named, their directory synced, then the checkpoint over them named
    directories above them    made, the one above synced, then the same checkpoint named
    published checkpoint      named, its directory synced, then handed to a sink
    checkpoint in a sink      named, its directory synced, then its evidence in the database
    objects and refs of git   written, synced, named
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from provledger import tiles
from provledger.db.engine import SQLITE_PAGE_BYTES

CALLS = (
    "write", "pwrite64", "fsync", "rename", "renameat", "renameat2", "link", "linkat", "mkdir",
    "mkdirat",
)  # fmt: skip
_NAMING = ("rename", "renameat", "renameat2", "link", "linkat")
_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+).*")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +<\.\.\. \w+ resumed>(.*)\) += (-?\d+).*")
_OPEN = re.compile(r"\d+<(.*?)>")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')
_TREE_SIZE = re.compile(r'"[^"\\]+\\n(\d+)\\n')
_APART = re.compile(r"^.*/provledger-git-[^/]+/refs/")
_SUNK = re.compile(r"[0-9]{20}\.checkpoint")


def recorder(trace: Path) -> list[str]:
    """A command that runs another one and writes down what `read` reads."""
    calls = ",".join(f"?{call}" for call in CALLS)
    # As much as is written at once: the size of a checkpoint, and evidence in pages of SQLite.
    return ["strace", "-f", "-y", "--seccomp-bpf", "-s", str(SQLITE_PAGE_BYTES), "-o", str(trace),
            "-e", f"trace={calls}"]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Event:
    """A call that succeeded. begin, end: when, in lines of the trace: other threads go on between.

    path: of the file that is open, or the name that was made. source: what was renamed or linked.
    """

    name: str
    begin: int
    end: int
    path: str
    source: str
    arguments: str


def read(trace: Path) -> list[Event]:
    """The events of a trace, in the order in which they began."""
    begun: dict[str, tuple[int, str, str]] = {}
    events = []
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        if found := _BEGUN.fullmatch(line):
            begun[found[1]] = number, found[2], found[3]
            continue
        if found := _ENDED.fullmatch(line):
            if found[1] not in begun:
                continue
            start, name, arguments = begun.pop(found[1])
            arguments, status = arguments + found[2], found[3]
        elif found := _WHOLE.fullmatch(line):
            start, name, arguments, status = number, found[2], found[3], found[4]
        else:
            continue
        if int(status) >= 0:
            events.append(_event(name, start, number, arguments))
    return sorted(events, key=lambda each: each.begin)


def _event(name: str, begin: int, end: int, arguments: str) -> Event:
    opened = _OPEN.match(arguments)
    names = [] if name in ("write", "pwrite64", "fsync") else _QUOTED.findall(arguments)
    source = names[0] if name in _NAMING else ""
    path = names[-1] if names else opened[1] if opened else ""
    return Event(name, begin, end, path, source, arguments)


class Trace:
    """Looks at what an anchor did; findings are sentences. `seen` counts what was looked at."""

    def __init__(self, events: Sequence[Event], tile_dir: Path, sinks: Sequence[Path]) -> None:
        """tile_dir: that of the log's files; sinks: directories, git repositories among them."""
        self._logs = f"{tile_dir}/logs/"
        self._sinks = tuple(f"{sink}/" for sink in sinks)
        self._events = [self._in_store(event) for event in events if event.path]
        self.seen: Counter[str] = Counter()

    def findings(self) -> list[str]:
        """Everything that was done too early, or not at all."""
        return [*self._files(), *self._checkpoints(), *self._sunk()]

    def _in_store(self, event: Event) -> Event:
        """Names of a sink's refs as they are there, not by the links through which git goes."""
        store = next((sink for sink in self._sinks if Path(sink, ".git").is_dir()), "")
        path, source = (
            _APART.sub(f"{store}.git/refs/", each) for each in (event.path, event.source)
        )
        return replace(event, path=path, source=source)

    def _synced(self, path: str, after: int, before: float) -> bool:
        return any(
            event.name == "fsync"
            and event.path == path
            and event.begin > after
            and event.end < before
            for event in self._events
        )

    def _named(self, path: str, before: float = float("inf")) -> Iterator[Event]:
        for event in self._events:
            if event.name in _NAMING and event.path == path and event.end < before:
                yield event

    def _content(self, named: Event) -> str:
        """What was written last to a file before it got a name, as strace shows it."""
        return next((each.arguments for each in reversed(self._written(named))), "")

    def _written(self, named: Event) -> list[Event]:
        """What was written to a file before it got a name."""
        return [
            each
            for each in self._events
            if each.name == "write" and each.path == named.source and each.begin < named.begin
        ]

    # --- what is looked for

    def _files(self) -> Iterator[str]:
        for named in self._events:
            if named.name not in _NAMING or not self._is_durable(named.path):
                continue
            # Git's lock on a branch has the same name each time.
            last = max((each.end for each in self._written(named)), default=-1)
            self.seen[_kind(named.path)] += 1
            if not self._synced(named.source, last, named.begin):
                yield f"{named.path} has its name before it is synced"

    def _is_durable(self, path: str) -> bool:
        if ".git/" in path:
            # The index and what is asked of it can be made again.
            return "/objects/" in path or "/refs/" in path
        return path.startswith((self._logs, *self._sinks))

    def _checkpoints(self) -> Iterator[str]:
        for named in self._events:
            if not (named.path.startswith(self._logs) and named.path.endswith("/checkpoint")):
                continue
            size = _size(self._content(named))
            if size < 1:
                yield f"of {named.path} it is not seen what was written"
            root = named.path.removesuffix("checkpoint")
            for tile in _paths(size):
                if not any(
                    self._is_kept(each, root, named.begin)
                    for each in self._named(root + tile, named.begin)
                ):
                    yield f"{tile} is not durable when the checkpoint of {size} has its name"

    def _is_kept(self, named: Event, root: str, before: int) -> bool:
        """Whether a name and those of the directories that were made for it are durable by then."""
        directory = named.path.rpartition("/")[0]
        if not self._synced(directory, named.end, before):
            return False
        while len(directory) >= len(root):
            above = directory.rpartition("/")[0]
            made = [
                event.end
                for event in self._events
                if event.name.startswith("mkdir")
                and event.path == directory
                and event.end < named.begin
            ]
            if made and not self._synced(above, made[-1], before):
                return False
            directory = above
        return True

    def _sunk(self) -> Iterator[str]:
        for named in self._events:
            name = named.path.rpartition("/")[2]
            if not named.path.startswith(self._sinks) or not _SUNK.fullmatch(name):
                continue
            size = int(name.partition(".")[0])
            published = [
                each
                for each in self._events
                if each.name in _NAMING
                and each.path.startswith(self._logs)
                and each.path.endswith("/checkpoint")
                and _size(self._content(each)) == size
            ]
            if not any(
                self._synced(each.path.rpartition("/")[0], each.end, named.begin)
                for each in published
            ):
                yield f"a sink is handed {name} before it is published for good"
            yield from self._evidence(named, name)

    def _evidence(self, named: Event, name: str) -> Iterator[str]:
        """The file and `latest` are durable before the database knows of the evidence."""
        directory = named.path.rpartition("/")[0]
        told = self._told(directory, name)
        if told is None:
            return  # the test ended before
        self.seen["evidence"] += 1
        latest = [
            each
            for each in self._named(f"{directory}/latest", told)
            if _size(self._content(each)) == _size(self._content(named))
        ]
        for each in (named, *latest[:1]):
            if not self._synced(directory, each.end, told):
                yield f"{each.path} has no durable name when there is evidence of {name}"
        if not latest:
            yield f"{directory}/latest is not yet {name} when there is evidence of it"

    def _told(self, directory: str, name: str) -> int | None:
        """When evidence of a file is first written to the database; of git with its commit."""
        begin = "," if Path(directory).with_name(".git").is_dir() else "{"
        text = f'{begin}\\"name\\":\\"{Path(directory).name}/{name}'
        found = (
            each.begin
            for each in self._events
            if each.name == "pwrite64" and text in each.arguments
        )
        return next(found, None)


def _kind(path: str) -> str:
    """What to count a file as."""
    if ".git/" in path:
        return "git"
    name = path.rpartition("/")[2]
    if _SUNK.fullmatch(name) or name in ("latest", "checkpoint"):
        return "sunk" if _SUNK.fullmatch(name) else name
    return "bundle" if "/tile/entries/" in path else "tile" if "/tile/" in path else name


def _size(content: str) -> int:
    """The tree size of a note, from its second line."""
    found = _TREE_SIZE.search(content)
    return int(found[1]) if found else -1


def _paths(size: int) -> list[str]:
    """All tiles and bundles of a tree of this size, full and partial."""
    paths, level, count = [], 0, size
    for index in range(-(-size // tiles.TILE_WIDTH)):
        paths.append(
            tiles.entries_path(index, min(tiles.TILE_WIDTH, size - index * tiles.TILE_WIDTH))
        )
    while count:
        for index in range(-(-count // tiles.TILE_WIDTH)):
            width = min(tiles.TILE_WIDTH, count - index * tiles.TILE_WIDTH)
            paths.append(tiles.tile_path(level, index, width))
        level, count = level + 1, count // tiles.TILE_WIDTH
    return paths
