"""What a log, a disk or a file that fails keeps to itself hides no alarm, and ends no monitor."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from provledger.errors import UnavailableError
from provledger.monitoring import LogView
from provledger.note import parse_vkey
from provledger.policy import parse_policy
from provledger.split_view import parse_split_view
from provledger_cli.tlog.fetching import Fetcher
from provledger_cli.tlog.logfiles import DirFiles, HTTPFiles
from tests.support.tiled import cosign, signed_checkpoint, write_log
from tests.support.watched import ENTRIES, KEY, ORIGIN, Clock, kinds, look, monitor
from tests.support.webroot import Fault, WebRoot, webroot


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebRoot]:
    root = tmp_path / "log"
    write_log(root, ORIGIN, ENTRIES[:300])
    with webroot(root) as server:
        yield server


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "monitor" / "state.json"


def go_back(web: WebRoot, size: int) -> None:
    """Show an earlier head, and no tile but its own."""
    for path in (web.root / "tile").rglob("*"):
        if path.is_file():
            path.unlink()
    write_log(web.root, ORIGIN, ENTRIES[:size])


def at_first(signed: bytes) -> Fault:
    """The first answer is this checkpoint, and what is there from then on."""
    answers = iter([(200, signed)])
    return lambda path: next(answers, None) if path == "/checkpoint" else None


@contextmanager
def full_disk() -> Iterator[None]:
    """No byte more goes into any file."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# --- two histories in one look -------------------------------------------------------------------


def test_a_head_that_is_asked_for_again_belongs_to_the_one_before(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    """A checkpoint that is ahead has the log asked again: that answer is not taken on trust."""
    first = (web.root / "checkpoint").read_bytes()
    look(web, state)
    fork = [*ENTRIES[:280], b"another", *ENTRIES[281:]]
    other = tmp_path / "other.checkpoint"
    other.write_bytes(signed_checkpoint(ORIGIN, fork[:400]))
    write_log(web.root, ORIGIN, fork[:450])
    # To a monitor that sees the log for the first time, too.
    for each in (state, state.with_name("new.json")):
        web.fault = at_first(first)
        found = look(web, each, others=[str(other)])
        assert (kinds(found), found.held) == (["split_view"], {})


def test_a_head_that_is_asked_for_again_is_the_one_to_go_on_with(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    first = (web.root / "checkpoint").read_bytes()
    other = tmp_path / "other.checkpoint"
    other.write_bytes(write_log(web.root, ORIGIN, ENTRIES[:400]))
    web.fault = at_first(first)
    found = look(web, state, others=[str(other)])
    assert (found.size, found.alarms, found.unknown) == (400, [], {})
    assert b"\\n400\\n" in state.read_bytes()


# --- what is away, or cannot be read -------------------------------------------------------------


class Failing(DirFiles):
    """A directory that cannot be read now and then."""

    error: Exception | None = None

    def read(self, path: str) -> bytes | None:
        if self.error is not None:
            raise self.error
        return super().read(path)


def test_a_store_that_is_away_ends_no_monitor(web: WebRoot, state: Path) -> None:
    files = Failing(web.root)
    watch = monitor(files, state)
    assert watch.look().first
    for error in (UnavailableError("S3", "the store is away"), OSError(5, "Input/output error")):
        files.error = error
        found = watch.look()
        assert (found.alarms, list(found.unknown)) == ([], ["log"])
        files.error = None
        assert watch.look().held["consistency"].startswith("with the head of size 300")


def test_a_split_view_is_told_when_nothing_can_be_written(web: WebRoot, state: Path) -> None:
    watch = monitor(DirFiles(web.root), state)
    with full_disk():
        found = watch.look()
        assert (found.alarms, list(found.unknown)) == ([], ["state"])
    # Not forgotten meanwhile, and saved as soon as that can be done.
    assert (watch.look().unknown, state.exists()) == ({}, True)
    write_log(web.root, ORIGIN, [b"another", *ENTRIES[1:400]])
    with full_disk():
        found = watch.look()
    assert kinds(found) == ["split_view"]
    assert "could not be saved" in found.alarms[0].message
    parse_split_view(found.alarms[0].as_dict()["evidence_text"].encode()).verify([KEY])


def test_a_file_that_cannot_be_read_hides_no_alarm(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "receipt.json"
    damaged.write_bytes(b"{}")
    nothing = str(tmp_path / "nothing")
    found = look(web, state, others=[nothing], expect=[damaged])
    assert (found.alarms, list(found.unknown)) == ([], [f"checkpoint {nothing}", "entries"])
    assert str(damaged) in found.unknown["entries"]
    go_back(web, 100)
    assert kinds(look(web, state, others=[nothing])) == ["rolled_back"]
    assert kinds(look(web, state, expect=[damaged])) == ["rolled_back"]


# --- what can be told without a tile -------------------------------------------------------------


def no_tiles(path: str) -> tuple[int, bytes] | None:
    return (500, b"") if path.startswith("/tile/") else None


def test_a_log_that_keeps_its_tiles_to_itself_hides_no_step_back(
    web: WebRoot, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provledger_cli.watching.monitor._PATIENCE_S", 0.0)
    other = tmp_path / "other.checkpoint"
    other.write_bytes((web.root / "checkpoint").read_bytes())
    look(web, state)
    (web.root / "checkpoint").write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:100]))
    web.fault = no_tiles
    assert kinds(look(web, state)) == ["rolled_back"]
    assert kinds(look(web, state.with_name("new.json"), others=[str(other)])) == ["behind"]


def test_a_log_that_falls_silent_while_it_is_waited_for_is_behind(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.checkpoint"
    other.write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:400]))
    answers = iter([None])
    web.fault = lambda path: next(answers, (503, b"")) if path == "/checkpoint" else None
    found = look(web, state, others=[str(other)])
    assert (kinds(found), list(found.unknown)) == (["behind"], ["log"])


def test_a_log_without_an_answer_is_stale_as_one_that_stands_still(
    web: WebRoot, state: Path
) -> None:
    clock = Clock()
    signed, key = cosign((web.root / "checkpoint").read_bytes(), "one.example", clock.now)
    (web.root / "checkpoint").write_bytes(signed)
    policy = parse_policy(f"witness a {key}\nquorum a\n".encode())
    look(web, state, clock)
    web.fault = lambda path: (404, b"")
    assert kinds(look(web, state, clock, max_age_s=60)) == []
    clock.now += 61
    assert kinds(look(web, state, clock, max_age_s=60)) == ["stale"]
    assert kinds(look(web, state, clock, max_age_s=60, policy=policy)) == ["stale"]
    # Nor has it grown while nobody can check that.
    web.fault = no_tiles
    write_log(web.root, ORIGIN, ENTRIES[:400])
    found = look(web, state, clock, max_age_s=60)
    assert (kinds(found), list(found.unknown)) == (["stale"], ["log"])


def test_a_clock_that_was_ahead_hides_no_log_that_stands_still(web: WebRoot, state: Path) -> None:
    clock = Clock()
    right = clock.now
    clock.now += 365 * 86_400
    assert look(web, state, clock, max_age_s=60).unknown == {}
    clock.now = right
    found = look(web, state, clock, max_age_s=60)
    assert (found.alarms, list(found.unknown)) == ([], ["freshness"])
    assert "freshness" not in found.held
    # From then on it counts, and is remembered so.
    clock.now += 60
    assert look(web, state, clock, max_age_s=60).held["freshness"] == "grown 60 s ago or later"
    clock.now += 1
    assert kinds(look(web, state, clock, max_age_s=60)) == ["stale"]


def test_a_line_of_a_cosigner_that_does_not_verify_is_an_alarm(web: WebRoot, state: Path) -> None:
    clock = Clock()
    plain = (web.root / "checkpoint").read_bytes()
    signed, key = cosign(plain, "one.example", clock.now)
    policy = parse_policy(f"witness a {key}\nquorum a\n".encode())
    (web.root / "checkpoint").write_bytes(signed)
    assert look(web, state, clock, max_age_s=60, policy=policy).alarms == []
    # The same line, below another head.
    line = signed.removeprefix(plain)
    (web.root / "checkpoint").write_bytes(write_log(web.root, ORIGIN, ENTRIES[:301]) + line)
    assert kinds(look(web, state, clock, max_age_s=60, policy=policy)) == ["cosigner_quorum"]
    keys = [item.key for item in policy.cosigners.values()]
    assert kinds(look(web, state, clock, max_age_s=60, cosigners=keys)) == ["cosigner_quorum"]


def test_a_cosignature_dated_far_ahead_does_not_make_a_head_fresh(
    web: WebRoot, state: Path
) -> None:
    """Whose clock is wrong is not known, nor how old the head is."""
    clock = Clock()
    plain = (web.root / "checkpoint").read_bytes()
    one, one_key = cosign(plain, "one.example", clock.now + 301)
    both, other_key = cosign(one, "other.example", clock.now)
    lines = f"witness a {one_key}\nwitness b {other_key}\n"
    ahead = parse_policy(f"{lines}quorum a\n".encode())
    either = parse_policy(f"{lines}group g any a b\nquorum g\n".encode())
    every = parse_policy(f"{lines}group g all a b\nquorum g\n".encode())
    (web.root / "checkpoint").write_bytes(both)
    for policy in (ahead, every):
        found = look(web, state, clock, max_age_s=60, policy=policy)
        assert (found.alarms, "freshness" in found.held) == ([], False)
        assert found.unknown["freshness"].startswith("the cosignature by a is dated over 300 s ")
        # Who asks for no age is told no more than that they signed.
        assert "freshness" in look(web, state, clock, policy=policy).held
    held = look(web, state, clock, max_age_s=60, policy=either).held
    assert held["freshness"] == "cosigned by b"
    clock.now += 1
    assert "freshness" in look(web, state, clock, max_age_s=60, policy=ahead).held
    # One that would not help anyway hides no alarm.
    clock.now += 60
    (web.root / "checkpoint").write_bytes(cosign(both, "one.example", clock.now + 400)[0])
    assert kinds(look(web, state, clock, max_age_s=60, policy=every)) == ["stale"]


def test_a_cosigner_that_dates_far_ahead_does_not_make_a_head_fresh(
    web: WebRoot, state: Path
) -> None:
    """As with a policy; another one of those that are given is believed beside it."""
    clock = Clock()
    plain = (web.root / "checkpoint").read_bytes()
    one, one_key = cosign(plain, "one.example", clock.now + 301)
    both, other_key = cosign(one, "other.example", clock.now)
    ahead, either = LogView([one_key]).keys, [parse_vkey(one_key), parse_vkey(other_key)]
    (web.root / "checkpoint").write_bytes(both)
    found = look(web, state, clock, max_age_s=60, cosigners=ahead)
    assert (found.alarms, "freshness" in found.held) == ([], False)
    assert found.unknown["freshness"].startswith("the newest cosignature is dated over 300 s ")
    # Who asks for no age is told no more than that it signed.
    assert "freshness" in look(web, state, clock, cosigners=ahead).held
    held = look(web, state, clock, max_age_s=60, cosigners=either).held
    assert held["freshness"] == "cosigned 0 s ago or later"
    clock.now += 1
    assert "freshness" in look(web, state, clock, max_age_s=60, cosigners=ahead).held
    # What the other one says is too old by then, and that the head is cannot be told.
    one, _ = cosign(plain, "one.example", clock.now + 10**8)
    (web.root / "checkpoint").write_bytes(cosign(one, "other.example", clock.now)[0])
    clock.now += 61
    found = look(web, state, clock, max_age_s=60, cosigners=either)
    assert (found.alarms, list(found.unknown)) == ([], ["freshness"])


def test_an_alarm_is_told_before_the_rest_of_the_look(web: WebRoot, state: Path) -> None:
    clock = Clock()
    watch = monitor(HTTPFiles(Fetcher(web.url)), state, clock, max_age_s=60)
    watch.look()
    clock.now += 61
    told: list[str] = []
    by_then: list[list[str]] = []

    def answer(path: str) -> None:
        if path.startswith("/tile/"):
            by_then.append(list(told))

    (web.root / "checkpoint").write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:100]))
    web.fault = answer
    assert kinds(watch.look(lambda alarm: told.append(alarm.kind))) == ["stale"]
    assert by_then
    assert all(each == ["stale"] for each in by_then)
