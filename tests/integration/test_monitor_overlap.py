"""Two looks of `provledger monitor` that overlap on one state file: the further one stands."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provledger.monitoring import LogView, SeenHead
from provledger_cli.embedded.datadir import write_atomically
from provledger_cli.placing import try_lock
from provledger_cli.tlog.logfiles import DirFiles
from provledger_cli.watching import remembered as remembered_module
from provledger_cli.watching.monitor import Monitor, Wanted
from provledger_cli.watching.remembered import Memory
from tests.support.tiled import signed_checkpoint, write_log
from tests.support.watched import ENTRIES, FORKED, KEY, ORIGIN, Clock, kinds, monitor


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """What is remembered of a log of 290 entries, which has 400 now."""
    path = tmp_path / "monitor" / "state.json"
    write_log(tmp_path / "log", ORIGIN, ENTRIES[:290])
    assert monitor(DirFiles(tmp_path / "log"), path).look().alarms == []
    write_log(tmp_path / "log", ORIGIN, ENTRIES[:400])
    return path


def slow(
    root: Path | DirFiles,
    state: Path,
    meanwhile: Callable[[], None],
    *,
    times: int = 1,
    max_age_s: int | None = None,
) -> Monitor:
    """A monitor during whose first look something is done, before each of so many times to save."""
    files = DirFiles(root) if isinstance(root, Path) else root
    made = monitor(files, state, max_age_s=max_age_s)
    save, todo = made._memory.save, [meanwhile] * times

    def late(head: SeenHead, grown_at_unix_s: int) -> tuple[SeenHead, int] | None:
        if todo:
            todo.pop()()
        return save(head, grown_at_unix_s)

    made._memory.save = late  # type: ignore[method-assign]
    return made


def remembered(state: Path) -> bytes:
    signed: str = json.loads(state.read_bytes())["signed"]
    return signed.encode()


def test_a_slow_look_does_not_put_an_older_head_back(tmp_path: Path, state: Path) -> None:
    root = tmp_path / "log"

    def grow() -> None:
        write_log(root, ORIGIN, ENTRIES[:600])
        assert monitor(DirFiles(root), state).look().alarms == []

    watch = slow(root, state, grow)
    found = watch.look()
    assert (found.size, found.alarms, found.unknown) == (400, [], {})
    assert found.held["consistency"] == "with the head of size 290 seen before"
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:600])
    assert watch.look().held["consistency"] == "with the head of size 600 seen before"
    assert [path.name for path in state.parent.iterdir()] == ["state.json"]


@pytest.mark.parametrize("size", [400, 390])
def test_looks_that_were_shown_two_histories_at_once_tell_it(
    tmp_path: Path, state: Path, size: int
) -> None:
    """Both go on from what was remembered, and no look was shown more than one of them."""
    other = tmp_path / "other"
    write_log(tmp_path / "log", ORIGIN, FORKED[:size])
    write_log(other, ORIGIN, ENTRIES[:400])

    def seen_by_another() -> None:
        # The tiles are of one place: who shows two histories shows those that go with the head.
        assert monitor(DirFiles(other), state).look().alarms == []
        write_log(tmp_path / "log", ORIGIN, ENTRIES[:400])

    found = slow(tmp_path / "log", state, seen_by_another).look()
    assert kinds(found) == ["split_view"]
    assert "consistency" not in found.held
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:400])


def test_the_larger_of_two_histories_does_not_cover_the_smaller_one(
    tmp_path: Path, state: Path
) -> None:
    other = tmp_path / "other"
    write_log(other, ORIGIN, ENTRIES[:390])
    write_log(tmp_path / "log", ORIGIN, FORKED[:400])

    def seen_by_another() -> None:
        assert monitor(DirFiles(other), state).look().alarms == []

    found = slow(tmp_path / "log", state, seen_by_another).look()
    assert (kinds(found), "consistency" in found.held) == (["split_view"], False)
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:390])
    # Nor does the first head of all.
    state.unlink()
    found = slow(tmp_path / "log", state, seen_by_another).look()
    assert (kinds(found), "consistency" in found.held) == (["split_view"], False)
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:390])


def test_a_larger_head_is_saved_once_it_is_found_joined_with_what_another_look_saved(
    tmp_path: Path, state: Path
) -> None:
    other = tmp_path / "other"
    write_log(other, ORIGIN, ENTRIES[:390])

    def seen_by_another() -> None:
        assert monitor(DirFiles(other), state).look().alarms == []

    found = slow(tmp_path / "log", state, seen_by_another).look()
    assert (found.alarms, found.unknown) == ([], {})
    assert found.held["consistency"] == "with the head of size 290 seen before"
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:400])


def test_who_never_has_a_turn_cannot_tell(tmp_path: Path, state: Path) -> None:
    """Others save between each of its attempts; what it saw is saved by the next look."""
    other = tmp_path / "other"
    sizes = iter(range(300, 305))

    def seen_by_others() -> None:
        write_log(other, ORIGIN, ENTRIES[: next(sizes)])
        assert monitor(DirFiles(other), state).look().alarms == []

    watch = slow(tmp_path / "log", state, seen_by_others, times=5)
    found = watch.look()
    assert (found.alarms, list(found.unknown)) == ([], ["state"])
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:304])
    assert watch.look().unknown == {}
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:400])


def test_a_log_that_went_back_between_two_looks_is_told_by_the_later_one(
    tmp_path: Path, state: Path
) -> None:
    """One that was shown more saved first; the tiles of that are not to be had any more."""
    other = tmp_path / "other"
    write_log(other, ORIGIN, ENTRIES[:600])

    def seen_by_another() -> None:
        assert monitor(DirFiles(other), state).look().alarms == []

    found = slow(tmp_path / "log", state, seen_by_another).look()
    assert kinds(found) == ["rolled_back"]
    assert "consistency" not in found.held
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:600])


class Away(DirFiles):
    """A log in a directory, of which some files cannot be had now and then."""

    away: str | None = None

    def read(self, path: str) -> bytes | None:
        if self.away is not None and path.startswith(self.away):
            raise OSError(104, "Connection reset by peer")
        return super().read(path)


@pytest.mark.parametrize("away", ["", "tile/"], ids=["all", "tiles"])
def test_a_log_that_is_away_while_it_grows_has_not_gone_back(
    tmp_path: Path, state: Path, away: str
) -> None:
    """Our head is smaller because it was asked for before the one that another look saved."""
    files = Away(tmp_path / "log")

    def grow() -> None:
        write_log(files.root, ORIGIN, ENTRIES[:600])
        assert monitor(DirFiles(files.root), state).look().alarms == []
        files.away = away

    watch = slow(files, state, grow)
    found = watch.look()
    assert (found.alarms, list(found.unknown), found.held) == ([], ["log"], {})
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:600])
    files.away = None
    found = watch.look()
    assert (found.alarms, found.unknown) == ([], {})


def test_a_log_that_goes_back_while_its_tiles_are_away_is_told(tmp_path: Path, state: Path) -> None:
    files = Away(tmp_path / "log")

    def go_back() -> None:
        write_log(files.root, ORIGIN, ENTRIES[:600])
        assert monitor(DirFiles(files.root), state).look().alarms == []
        (files.root / "checkpoint").write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:500]))
        files.away = "tile/"

    (alarm,) = slow(files, state, go_back).look().alarms
    assert alarm.kind == "rolled_back"
    assert "of size 500, having shown one of 600" in alarm.message


def test_what_another_look_saved_is_heeded_once(tmp_path: Path, state: Path) -> None:
    """A look that finds the clock of then ahead saves before its head is compared, too."""
    files, root = Away(tmp_path / "log"), tmp_path / "log"
    value = json.loads(state.read_bytes()) | {"grownAtUnixS": str(Clock.now + 10**6)}
    state.write_bytes(json.dumps(value).encode())
    write_log(root, ORIGIN, ENTRIES[:290])

    def go_back() -> None:
        write_log(root, ORIGIN, ENTRIES[:600])
        assert monitor(DirFiles(root), state).look().alarms == []
        (root / "checkpoint").write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:290]))
        files.away = "tile/"

    found = slow(files, state, go_back, max_age_s=60).look()
    assert (kinds(found), list(found.unknown)) == (["rolled_back"], ["freshness"])
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:600])


def test_looks_take_turns_at_the_state(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between what it finds there and what it puts there, nobody else saves."""
    free: list[bool] = []
    write = write_atomically

    def written(path: Path, data: bytes, *, mode: int = 0o600) -> None:
        descriptor = os.open(state.parent, os.O_RDONLY)
        try:
            try_lock(descriptor)
            free.append(True)
        except BlockingIOError:
            free.append(False)
        finally:
            os.close(descriptor)
        write(path, data, mode=mode)

    monkeypatch.setattr(remembered_module, "write_atomically", written)
    assert monitor(DirFiles(tmp_path / "log"), state).look().unknown == {}
    assert free == [False]


class Waiting:
    """A clock that nothing but waiting moves on."""

    now_s = 0.0
    meanwhile: Callable[[], None] | None = None

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        if self.meanwhile is not None:
            self.meanwhile()


@pytest.fixture
def held(state: Path) -> Iterator[int]:
    """The state's directory, locked by somebody who may read it."""
    descriptor = os.open(state.parent, os.O_RDONLY)
    try:
        try_lock(descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def waiting(root: Path, state: Path, clock: Waiting) -> Monitor:
    view = LogView([KEY])
    memory = Memory(state, view, monotonic=clock, sleep=clock.sleep)
    return Monitor(view, DirFiles(root), memory, Wanted())


@pytest.mark.usefixtures("held")
def test_who_holds_the_directory_keeps_no_look_from_remembering(
    tmp_path: Path, state: Path
) -> None:
    """As `flock DIRECTORY provledger monitor` does, for as long as it runs."""
    clock = Waiting()
    found = waiting(tmp_path / "log", state, clock).look()
    assert (found.alarms, found.unknown) == ([], {})
    assert remembered(state) == signed_checkpoint(ORIGIN, ENTRIES[:400])
    assert 2.0 <= clock.now_s < 2.1


def test_what_was_saved_by_whom_a_look_waited_for_stands(
    tmp_path: Path, state: Path, held: int
) -> None:
    clock = Waiting()

    def saved() -> None:
        clock.meanwhile = None
        signed = signed_checkpoint(ORIGIN, FORKED[:390]).decode()
        value = json.loads(state.read_bytes()) | {"signed": signed}
        write_atomically(state, json.dumps(value).encode())
        fcntl.flock(held, fcntl.LOCK_UN)

    clock.meanwhile = saved
    assert kinds(waiting(tmp_path / "log", state, clock).look()) == ["split_view"]
    assert clock.now_s < 0.1
    assert remembered(state) == signed_checkpoint(ORIGIN, FORKED[:390])
