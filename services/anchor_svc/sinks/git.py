"""A directory as a git repository: what is written there becomes a commit, once.

By the `git` program, with nobody's configuration and no hooks, in the thread of the sink. A commit
that was made, though we were killed before we heard of it, is found and not made again.

Trust: as good as the directory. What makes it worth more is a remote that somebody else holds.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from anchor_svc.sinks import SinkError
from provledger.settings import ConfigError

TIMEOUT_S: Final = 30.0
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


class Repository:
    """The repository in `root`; blocking, for one thread."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def commit(self, paths: Sequence[str], message: str) -> str:
        """Commit these files, relative to the root; the commit that brought the first of them.

        Raises:
            SinkError: git could not. ConfigError: there is no git.
        """
        if not (self._root / ".git").exists():
            self._git("init", "--quiet", "--initial-branch=main")
        self._drop_stale_lock()
        self._git("add", "--", *paths)
        if self._git("status", "--porcelain", "--", *paths):
            self._git("commit", "--quiet", f"--message={message}", "--", *paths)
        found = self._git("log", "-1", "--format=%H", "--diff-filter=A", "--", paths[0]).strip()
        if not _COMMIT.fullmatch(found):
            raise SinkError("git has no commit of what was just committed")
        return found

    def _drop_stale_lock(self) -> None:
        """Remove what a killed git left behind; none takes a minute for a few files."""
        lock = self._root / ".git" / "index.lock"
        with contextlib.suppress(FileNotFoundError):
            if time.time() - lock.stat().st_mtime > _STALE_LOCK_S:
                lock.unlink()

    def _git(self, *arguments: str) -> str:
        options = [word for setting in _SETTINGS for word in ("-c", setting)]
        try:
            done = subprocess.run(
                ["git", *options, *arguments],
                cwd=self._root,
                env={
                    "PATH": os.environ.get("PATH", os.defpath),
                    "HOME": "/nonexistent",
                    "LC_ALL": "C",
                    "GIT_CONFIG_NOSYSTEM": "1",
                    "GIT_CONFIG_GLOBAL": "/dev/null",
                    "GIT_CEILING_DIRECTORIES": str(self._root.parent),
                    "GIT_TERMINAL_PROMPT": "0",
                },
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as error:
            raise ConfigError("sinks: file with ?git=1 needs git, which is not here") from error
        except subprocess.TimeoutExpired as error:
            raise SinkError(f"git {arguments[0]} took longer than {TIMEOUT_S:.0f} s") from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().partition("\n")[0][:200]
            raise SinkError(f"git {arguments[0]} failed: {said}")
        return done.stdout.decode("utf-8", "replace")
