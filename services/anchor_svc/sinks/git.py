"""A directory as a git repository: what is written there becomes a commit, once.

By the `git` program, with nobody's configuration, in the thread of the sink. A commit that was
made, though we were killed before we heard of it, is found and not made again.

What is written once and for all leaves the tree with the next of its kind, and is kept by the
history: a tree that named them all would be written anew by each commit, and longer each time. The
files stay in the directory, where `info/exclude` has git pass over them.

A repository's own files can tell git to run programs: `core.fsmonitor`, filters, hooks, a helper
that fetches what is missing. New ways come with new versions, so that a list of settings to switch
off is never complete, and a look at the file before is outrun by who writes it. So git never works
in the sink's repository. It works in one of ours, made for the moment, that borrows nothing from
the sink's but data::

    <temporary>/config          ours
                HEAD            a copy
                refs, ...    -> <sink>/.git/refs, ...
                index           of the commit that is made
    GIT_OBJECT_DIRECTORY      = <sink>/.git/objects

and with commands that take blobs from us and look at no working tree. `git` as others use it finds
an ordinary repository there, and nothing to commit.

Trust: as good as the directory. What makes it worth more is a remote that somebody else holds.
Whoever writes in the directory can spoil it, but runs nothing as the anchor.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

from anchor_svc.sinks import SinkError
from provledger.settings import ConfigError

TIMEOUT_S: Final = 30.0
MAX_FILE_BYTES: Final = 1024 * 1024
_STALE_LOCK_S: Final = 60.0
_SETTINGS: Final = (
    "user.name=provledger",
    "user.email=anchor@provledger.invalid",
    "commit.gpgsign=false",
    "core.hooksPath=/dev/null",
    "core.fsync=all",
    "gc.auto=0",
)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
# What git must know of the sink's configuration: how objects are named, and who may use the files.
_TAKEN_OVER: Final = {
    "extensions.objectformat": re.compile(r"sha1|sha256"),
    "core.sharedrepository": re.compile(r"[0-9a-z]{1,10}"),
}


_turns: Final[WeakValueDictionary[Path, threading.Lock]] = WeakValueDictionary()
_turns_guard: Final = threading.Lock()


def _turn_of(root: Path) -> threading.Lock:
    """Held by who commits in a directory: several logs' checkpoints may go to one."""
    place = root.resolve()
    with _turns_guard:
        found = _turns.get(place)
        if found is None:
            found = _turns[place] = threading.Lock()
        return found


class Repository:
    """The repository in `root`; blocking, for one thread. Several for one root take turns."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._store = root / ".git"
        self._turn = _turn_of(root)

    def commit(self, paths: Sequence[str], message: str, *, once: str) -> str:
        """Commit these files, relative to the root; the commit that brought the first of them.

        once: a pattern of names; files that have one, in the same directory as the first, and are
        not among these, are no longer in the tree.

        Raises:
            SinkError: git could not, or others did not let us. ConfigError: there is no git.
        """
        if not self._turn.acquire(timeout=TIMEOUT_S):
            raise SinkError(f"other logs have committed in {self._root} for {TIMEOUT_S:.0f} s")
        try:
            return self._commit(paths, message, once)
        finally:
            self._turn.release()

    def _commit(self, paths: Sequence[str], message: str, once: str) -> str:
        if not all((self._store / name).exists() for name in ("HEAD", "objects", "refs/heads")):
            # Also where a git was killed that made it: this is repeated without harm.
            self._drop_stale_locks("HEAD.lock", "config.lock")
            _git(self._root, {}, "init", "--quiet", "--initial-branch=main", "--template=")
        with self._apart() as git:
            self._record(git, paths, message, once)
            found = git.run("log", "-1", "--format=%H", "--diff-filter=A", "HEAD", "--", paths[0])
        if not _COMMIT.fullmatch(found.strip()):
            raise SinkError("git has no commit of what was just committed")
        return found.strip()

    def _record(self, git: _Apart, paths: Sequence[str], message: str, once: str) -> None:
        branch = git.run("symbolic-ref", "HEAD").strip()
        self._check_inside(Path(branch).parent)
        self._drop_stale_locks("index.lock", f"{branch}.lock")
        head = git.ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}").strip()
        blobs = {}
        for path in paths:
            data = _read(self._root, path)
            hashed = git.run("hash-object", "-w", "--no-filters", "--stdin", given=data)
            blobs[path] = hashed.strip()
        if head:
            git.run("read-tree", head)
        _stage(git, blobs, once)
        tree = git.run("write-tree").strip()
        if head and tree == git.run("rev-parse", f"{head}^{{tree}}").strip():
            return
        parents = ["-p", head] if head else []
        made = git.run("commit-tree", tree, *parents, given=message.encode()).strip()
        # For whoever looks there with `git status`; before the branch, since it may be locked.
        self._pass_over(f"/*/{once}")
        _stage(git, blobs, once, {"GIT_INDEX_FILE": str(self._store.absolute() / "index")})
        # Only if the branch is still where it was, or not yet there.
        git.run("update-ref", "HEAD", made, head)

    def _pass_over(self, pattern: str) -> None:
        """Have git not tell of such files, and clear none of them away; it may do without."""
        path, line = ".git/info/exclude", pattern.encode() + b"\n"
        with contextlib.suppress(OSError, SinkError):
            try:
                there = _read(self._root, path)
            except FileNotFoundError:
                (self._store / "info").mkdir(exist_ok=True)
                there = b""
            if line in there.splitlines(keepends=True) or len(there) == MAX_FILE_BYTES:
                return
            before = b"\n" if there and not there.endswith(b"\n") else b""
            with open(_open(self._root, path, os.O_WRONLY | os.O_APPEND | os.O_CREAT), "ab") as out:
                out.write(before + line)

    @contextmanager
    def _apart(self) -> Iterator[_Apart]:
        """A repository of our own over the objects and refs of the sink's."""
        for name in ("objects", "refs"):
            self._check_inside(Path(name))
        store = self._store.absolute()
        with tempfile.TemporaryDirectory(prefix="provledger-git-") as made:
            own = Path(made)
            (own / "HEAD").write_bytes(_read(self._root, ".git/HEAD"))
            for name in ("refs", "packed-refs", "shallow"):
                (own / name).symlink_to(store / name)
            (own / "config").write_text(self._taken_over(own))
            yield _Apart(own, {"GIT_DIR": made, "GIT_OBJECT_DIRECTORY": str(store / "objects")})

    def _taken_over(self, anywhere: Path) -> str:
        """Our configuration, with what is taken over of the sink's."""
        pattern = "|".join(re.escape(key) for key in _TAKEN_OVER)
        file = str(self._store.absolute() / "config")
        asked = ("config", "--file", file, "--no-includes", "-z", "--get-regexp", f"^({pattern})$")
        lines = ["[core]", "bare = true", "repositoryformatversion = 1"]
        for item in _git(anywhere, {}, *asked, may_fail=True).split("\0"):
            key, _, value = item.partition("\n")
            if key in _TAKEN_OVER and _TAKEN_OVER[key].fullmatch(value):
                section, _, name = key.partition(".")
                lines += [f"[{section}]", f"{name} = {value}"]
        return "\n".join(lines) + "\n"

    def _check_inside(self, name: Path) -> None:
        """Refuse links: where they lead to, we may write and others may not."""
        expected = os.path.join(os.path.realpath(self._root), ".git", name)
        if os.path.realpath(self._store / name) != expected:
            raise SinkError(f".git/{name} leads somewhere else")

    def _drop_stale_locks(self, *names: str) -> None:
        """Remove what a killed git left behind; none takes a minute for a few files."""
        for name in names:
            lock = self._store / name
            with contextlib.suppress(FileNotFoundError):
                if time.time() - lock.lstat().st_mtime > _STALE_LOCK_S:
                    lock.unlink()


class _Apart:
    """Git in a repository of our own."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory = directory
        self._environment = environment

    def run(self, *arguments: str, given: bytes = b"", more: dict[str, str] | None = None) -> str:
        """What git says; raises SinkError if it fails."""
        return _git(self._directory, self._environment | (more or {}), *arguments, given=given)

    def ask(self, *arguments: str) -> str:
        """What git says, empty if it fails."""
        return _git(self._directory, self._environment, *arguments, may_fail=True)


def _stage(
    git: _Apart, blobs: dict[str, str], once: str, more: dict[str, str] | None = None
) -> None:
    """Put files into an index, and take those out that gave way to the first; see `commit`."""
    first = next(iter(blobs))
    beside = posixpath.dirname(first) + "/"
    listed = git.run("ls-files", "-z", "--", beside, more=more).split("\0")
    gone = [
        path
        for path in listed
        if path not in blobs and fnmatchcase(path.removeprefix(beside), once)
    ]
    none = "0" * len(blobs[first])
    # From the end, since what comes after each is moved up.
    lines = [f"0 {none}\t{path}\0" for path in sorted(gone, reverse=True)]
    lines += [f"100644 {blob}\t{path}\0" for path, blob in blobs.items()]
    given = "".join(lines).encode()
    git.run("update-index", "--add", "-z", "--index-info", given=given, more=more)


def _git(
    directory: Path,
    environment: dict[str, str],
    *arguments: str,
    given: bytes = b"",
    may_fail: bool = False,
) -> str:
    options = [word for setting in _SETTINGS for word in ("-c", setting)]
    try:
        done = subprocess.run(
            ["git", *options, *arguments],
            cwd=directory,
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": "/nonexistent",
                "LC_ALL": "C",
                "GIT_CONFIG_NOSYSTEM": "1",
                "GIT_CONFIG_GLOBAL": "/dev/null",
                "GIT_ATTR_NOSYSTEM": "1",
                "GIT_CEILING_DIRECTORIES": str(directory.parent),
                "GIT_TERMINAL_PROMPT": "0",
                # Names are meant as they are, and objects are those that we wrote.
                "GIT_LITERAL_PATHSPECS": "1",
                "GIT_NO_REPLACE_OBJECTS": "1",
                **environment,
            },
            input=given,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise ConfigError("sinks: file with ?git=1 needs git, which is not here") from error
    except subprocess.TimeoutExpired as error:
        raise SinkError(f"git {arguments[0]} took longer than {TIMEOUT_S:.0f} s") from error
    if done.returncode and not may_fail:
        said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0][:200]
        raise SinkError(f"git {arguments[0]} failed: {said}")
    return "" if done.returncode else done.stdout.decode("utf-8", "replace")


def _read(root: Path, path: str) -> bytes:
    """The beginning of a file below the root, by no link. Raises OSError."""
    file = _open(root, path, os.O_RDONLY)
    with open(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise SinkError(f"{path} is no file")
        return opened.read(MAX_FILE_BYTES)


def _open(root: Path, path: str, flags: int) -> int:
    """Open a file below the root, by no link: others may not use what we may. Raises OSError."""
    *directories, name = path.split("/")
    at = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        for directory in directories:
            inner = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = inner
        # Not to be kept waiting by a pipe.
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644, dir_fd=at)
    finally:
        os.close(at)
