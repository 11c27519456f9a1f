"""A git repository as a sink, and a sink of somebody's own, installed as a package."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from anchor_svc import sinks
from anchor_svc.sinks import AnchorSink, Evidence, PublishedCheckpoint, SinkError, git, open_sink
from provledger import jcs
from provledger.settings import ConfigError
from tests.conformance.sink_suite import LOG, SinkSuite, published
from tests.support.anchoring import Ledger, eventually, running_log, submit

pytestmark = pytest.mark.timeout(60)

DIRECTORY = quote(LOG.origin, safe="")
LATEST = f"{DIRECTORY}/latest"
AUTHOR = ("-c", "user.name=x", "-c", "user.email=x@example.com", "-c", "commit.gpgsign=false")


class GitPlace:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def open(self) -> AnchorSink:
        return open_sink(f"file://{self.directory}?git=1")

    def git(self, *arguments: str) -> str:
        command = ["git", "-C", str(self.directory), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def tree(self) -> list[str]:
        """What the newest commit names."""
        return self.git("ls-tree", "-r", "--name-only", "HEAD").splitlines()

    def verify(self, checkpoint: PublishedCheckpoint, kind: str, evidence: bytes) -> None:
        assert kind == "file"
        value: Any = jcs.parse(evidence)
        shown = self.git("show", f"{value['commit']}:{value['name']}")
        assert shown.encode() == checkpoint.note


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
class TestGit(SinkSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> GitPlace:
        return GitPlace(tmp_path / "anchors")

    async def test_each_checkpoint_is_one_commit(self, place: GitPlace) -> None:
        sink = place.open()
        for size in (3, 5, 5):
            await sink.anchor(published(size))
        subjects = place.git("log", "--format=%s").splitlines()
        assert subjects == [f"{LOG.origin}: checkpoint of tree size {size}" for size in (5, 3)]
        assert place.git("status", "--porcelain") == ""
        place.git("fsck", "--strict")

    async def test_a_commit_costs_the_same_at_any_number_and_history_holds_all(
        self, place: GitPlace
    ) -> None:
        """A tree that names them all is written anew by each commit, and longer each time."""
        sink = place.open()
        made = {size: await sink.anchor(published(size)) for size in (3, 5, 8)}
        assert place.tree() == [f"{DIRECTORY}/00000000000000000008.checkpoint", LATEST]
        for size, evidence in made.items():
            place.verify(published(size), evidence.kind, evidence.data)
        # The directory has them all, and whoever tidies up there takes none away.
        place.git("clean", "-fdq")
        assert len([*place.directory.glob("*/*.checkpoint")]) == 3
        assert place.git("status", "--porcelain") == ""

    async def test_repository_whose_tree_names_them_all_goes_on(self, place: GitPlace) -> None:
        """As it was committed once: nothing of it is lost, and it costs no more than another."""
        sink, before = open_sink(f"file://{place.directory}"), {}
        place.directory.mkdir()
        place.git("init", "--quiet")
        for size in (3, 5):
            await sink.anchor(published(size))
            (place.directory / DIRECTORY / "README").write_text(f"{size}")
            place.git("add", ".")
            place.git(*AUTHOR, "commit", "-qm", f"{LOG.origin}: checkpoint of tree size {size}")
            before[size] = place.git("rev-parse", "HEAD").strip()
        (place.directory / ".git/info").mkdir(exist_ok=True)
        (place.directory / ".git/info/exclude").write_text("*.bak")
        again = await place.open().anchor(published(5))
        assert jcs.parse(again.data)["commit"] == before[5]
        evidence = await place.open().anchor(published(8))
        place.verify(published(8), evidence.kind, evidence.data)
        assert place.tree() == [
            f"{DIRECTORY}/00000000000000000008.checkpoint",
            f"{DIRECTORY}/README",
            LATEST,
        ]
        for size, commit in before.items():
            name = f"{DIRECTORY}/{size:020}.checkpoint"
            assert place.git("show", f"{commit}:{name}").encode() == published(size).note
            place.git("merge-base", "--is-ancestor", commit, "HEAD")
            assert (place.directory / name).read_bytes() == published(size).note
        (place.directory / "x.bak").touch()
        assert place.git("status", "--porcelain") == ""
        place.git("fsck", "--strict")

    async def test_killed_before_the_branch_moved_heals(
        self, place: GitPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink = place.open()
        await sink.anchor(published(3))
        run = git._git

        def killed(*given: Any, **more: Any) -> str:
            if "update-ref" in given:
                raise SinkError("killed")
            return run(*given, **more)

        with monkeypatch.context() as patched:
            patched.setattr(git, "_git", killed)
            with pytest.raises(SinkError, match="killed"):
                await sink.anchor(published(5))
        evidence = await sink.anchor(published(8, known_size=3))
        place.verify(published(8), evidence.kind, evidence.data)
        assert place.tree() == [f"{DIRECTORY}/00000000000000000008.checkpoint", LATEST]
        assert place.git("status", "--porcelain") == ""

    async def test_written_but_not_committed_is_committed_by_the_next(
        self, place: GitPlace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sink = place.open()
        with monkeypatch.context() as patched:
            patched.setenv("PATH", "/nonexistent")
            with pytest.raises(ConfigError, match="needs git"):
                await sink.anchor(published(3))
        evidence = await sink.anchor(published(3))
        place.verify(published(3), evidence.kind, evidence.data)

    async def test_lock_of_a_killed_git_is_not_for_ever(self, place: GitPlace) -> None:
        sink = place.open()
        await sink.anchor(published(3))
        lock = place.directory / ".git" / "index.lock"
        lock.touch()
        with pytest.raises(SinkError, match=r"index\.lock"):
            await sink.anchor(published(5))
        old_s = time.time() - 3600
        os.utime(lock, (old_s, old_s))
        await sink.anchor(published(5))

    async def test_lock_of_a_branch_is_not_for_ever_either(self, place: GitPlace) -> None:
        sink = place.open()
        await sink.anchor(published(3))
        lock = place.directory / ".git" / "refs" / "heads" / "main.lock"
        lock.touch()
        with pytest.raises(SinkError, match=r"main\.lock"):
            await sink.anchor(published(5))
        old_s = time.time() - 3600
        os.utime(lock, (old_s, old_s))
        evidence = await sink.anchor(published(5))
        place.verify(published(5), evidence.kind, evidence.data)
        assert place.git("status", "--porcelain") == ""

    async def test_nothing_in_the_repository_runs_as_us(
        self, place: GitPlace, tmp_path: Path
    ) -> None:
        """Whoever carries it away may write in it, and that is all."""
        sink = place.open()
        await sink.anchor(published(3))
        marks, own = tmp_path / "marks", place.directory / ".git"
        marks.mkdir()

        def program(name: str) -> str:
            path = tmp_path / name
            path.write_text(f"#!/bin/sh\ntouch {marks}/{name}\ncat\n")
            path.chmod(0o755)
            return str(path)

        with (own / "config").open("a") as config:
            config.write(
                f"[core]\nfsmonitor = {program('fsmonitor')}\nsshCommand = {program('ssh')}\n"
                f"hooksPath = {tmp_path}\n"
                f'[filter "x"]\nclean = {program("clean")}\nsmudge = {program("smudge")}\n'
                f'[filter "y"]\nprocess = {program("process")}\nrequired = true\n'
                f'[diff "z"]\ncommand = {program("diff")}\ntextconv = {program("textconv")}\n'
                f"[commit]\ngpgsign = true\n[log]\nshowSignature = true\n"
                f"[gpg]\nprogram = {program('gpg')}\n[core]\npager = {program('pager')}\n"
                f"[include]\npath = {tmp_path}/more\n"
                f'[extensions]\npartialClone = origin\n[remote "origin"]\npromisor = true\n'
                f'url = ext::{program("remote")}\n[protocol "ext"]\nallow = always\n'
            )
        (tmp_path / "more").write_text(f"[core]\nfsmonitor = {program('included')}\n")
        (own / "info").mkdir(exist_ok=True)
        (own / "info" / "attributes").write_text("* filter=x diff=z\n")
        (place.directory / ".gitattributes").write_text("* filter=x diff=z\n")
        (own / "hooks").mkdir(exist_ok=True)
        for hook in ("post-commit", "pre-commit", "reference-transaction", "post-index-change"):
            program(hook)
            shutil.copy(tmp_path / hook, own / "hooks" / hook)

        made = [await sink.anchor(published(size)) for size in (5, 5)]
        assert made[0] == made[1]
        assert [path.name for path in marks.iterdir()] == []
        (own / "HEAD").unlink()  # made anew, as after a kill
        await sink.anchor(published(7))
        assert [path.name for path in marks.iterdir()] == []
        # We look at it without.
        (own / "config").write_text("[core]\nrepositoryformatversion = 0\n")
        place.verify(published(5), made[0].kind, made[0].data)

    async def test_nothing_of_ours_gets_into_it_by_a_link(
        self, place: GitPlace, tmp_path: Path
    ) -> None:
        sink = place.open()
        await sink.anchor(published(3))
        secret, refs = tmp_path / "secret", place.directory / ".git" / "refs"
        secret.write_text("ref: refs/heads/main\n")
        refs.rename(tmp_path / "refs")
        refs.symlink_to(tmp_path / "refs")
        with pytest.raises(SinkError, match="leads somewhere else"):
            await sink.anchor(published(5))
        refs.unlink()
        (tmp_path / "refs").rename(refs)
        head = place.directory / ".git" / "HEAD"
        head.unlink()
        head.symlink_to(secret)
        with pytest.raises(SinkError):
            await sink.anchor(published(5))
        head.unlink()
        head.write_text("ref: refs/heads/../../../secret\n")
        with pytest.raises(SinkError):
            await sink.anchor(published(5))
        head.write_text("ref: refs/heads/main\n")
        await sink.anchor(published(5))
        exclude = place.directory / ".git" / "info" / "exclude"
        exclude.unlink()
        exclude.symlink_to(secret)
        await sink.anchor(published(7))
        assert secret.read_text() == "ref: refs/heads/main\n"

    @pytest.mark.parametrize("given", ["sha256", "packed", "shallow", "half made"])
    async def test_repositories_of_others_are_taken_as_they_are(
        self, place: GitPlace, tmp_path: Path, given: str
    ) -> None:
        place.directory.mkdir()
        if given == "sha256":
            place.git("init", "--quiet", "--object-format=sha256")
        elif given == "half made":
            (place.directory / ".git").mkdir()
        else:
            origin = GitPlace(tmp_path / "origin")
            for size in (2, 3):
                await origin.open().anchor(published(size))
            place.directory.rmdir()
            depth = ["--depth=1"] * (given == "shallow")
            url = f"file://{origin.directory}"
            subprocess.run(["git", "clone", "-q", *depth, url, place.directory], check=True)
            place.git("pack-refs", "--all")
        sink = place.open()
        for size in (5, 7, 7):
            evidence = await sink.anchor(published(size))
            place.verify(published(size), evidence.kind, evidence.data)
        assert place.git("status", "--porcelain") == ""
        assert place.git("rev-list", "--count", "HEAD").strip() == (
            {"packed": "4", "shallow": "3"}.get(given, "2")
        )
        place.git("fsck", "--strict")

    async def test_repository_above_is_left_alone(self, tmp_path: Path) -> None:
        above = GitPlace(tmp_path)
        above.git("init", "--quiet")
        place = GitPlace(tmp_path / "inner")
        await place.open().anchor(published(3))
        assert (place.directory / ".git").is_dir()
        assert above.git("count-objects").startswith("0 objects")


@pytest.mark.parametrize("query", ["git=0", "git=1&x=y", "git", "mode=COMPLIANCE"])
def test_file_sinks_know_one_parameter(query: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="git=1"):
        open_sink(f"file://{tmp_path}?{query}")


# --- somebody's own -------------------------------------------------------------------------------

BOARD = '''
"""A notice board in a directory: a sink that knows nothing of Provledger but the interface."""
import hashlib, pathlib
from urllib.parse import urlsplit
from anchor_svc.sinks import Evidence, SinkIntegrityError

class Board:
    def __init__(self, uri):
        self.uri = uri
        self._folder = pathlib.Path(urlsplit(uri).path)

    async def anchor(self, checkpoint):
        self._folder.mkdir(exist_ok=True)
        notice = self._folder / str(checkpoint.size)
        if notice.exists() and notice.read_bytes() != checkpoint.note:
            raise SinkIntegrityError("another notice is there")
        notice.write_bytes(checkpoint.note)
        return Evidence("board", hashlib.sha256(checkpoint.note).digest())

    async def close(self):
        pass
'''


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with the package, as an installer lays it out, on the path."""
    site = tmp_path / "site"
    info = site / "notice_board-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "notice_board_sink.py").write_text(BOARD)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: notice-board\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{sinks.ENTRY_POINTS}]\nboard = notice_board_sink:Board\nbroken = notice_board_sink:No\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return site


class TestInstalled(SinkSuite):
    """It passes the same suite as ours, and was never registered."""

    class Place:
        def __init__(self, directory: Path) -> None:
            self.directory = directory

        def open(self) -> AnchorSink:
            return open_sink(f"board://{self.directory}")

        def verify(self, checkpoint: PublishedCheckpoint, kind: str, evidence: bytes) -> None:
            assert (kind, evidence) == ("board", hashlib.sha256(checkpoint.note).digest())

    @pytest.fixture
    def place(self, installed: Path, tmp_path: Path) -> Place:
        return self.Place(tmp_path / "board")


def test_entry_point_that_cannot_be_loaded_is_named(installed: Path) -> None:
    with pytest.raises(ConfigError, match="notice_board_sink:No"):
        open_sink("broken:///x")


async def test_new_process_finds_it_by_its_scheme(installed: Path, tmp_path: Path) -> None:
    """As an operator would: the package on the path, its URI in the settings, nothing else."""
    code = textwrap.dedent(
        f"""
        import json, sys
        from anchor_svc.opening import open_sinks
        (sink,) = open_sinks(["board://{tmp_path}/board"], None)
        print(json.dumps([type(sink).__module__, sink.uri]))
        """
    )
    path = os.pathsep.join([str(installed), *sys.path])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        env=os.environ | {"PYTHONPATH": path},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert json.loads(output) == ["notice_board_sink", f"board://{tmp_path}/board"]


class Cancelled:
    """A sink of somebody's own that awaits a task which its own pool has cancelled, once."""

    uri = "pool://x"
    asked = 0

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        self.asked += 1
        if self.asked == 1:
            task = asyncio.ensure_future(asyncio.sleep(60))
            task.cancel()
            await task
        return Evidence("pool", b"held")

    async def close(self) -> None:
        raise asyncio.CancelledError


async def test_what_ends_as_cancelled_has_failed_and_is_asked_again(tmp_path: Path) -> None:
    """Its relay ended without a word, and no metric or `retry` told of it."""
    sink, ledger = Cancelled(), Ledger()
    ledger.grow(5)
    url = f"sqlite:///{tmp_path}/log.db"
    async with running_log(url, tmp_path, background=True, sinks=[sink]) as log:
        await submit(log, ledger)
        await eventually(lambda: log.state.anchored_size == 6, 30)
        assert sink.asked >= 2
