"""`provledger monitor` against logs behind a real HTTP server, honest and otherwise."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from provledger.monitoring import LogView
from provledger.policy import parse_policy
from provledger.receipt import Proof
from provledger_cli.failures import CommandError
from provledger_cli.tlog.logfiles import DirFiles
from provledger_cli.verifying.receipt_files import receipts_of
from provledger_cli.watching.alarms import Look
from provledger_cli.watching.monitor import Monitor, Wanted
from provledger_cli.watching.remembered import Memory
from tests.support import peers
from tests.support.chain import sample_chain, with_changes
from tests.support.runbooks import run_all
from tests.support.tiled import cosign, flip, signed_checkpoint, vkey, write_log
from tests.support.watched import ENTRIES, FORKED, KEY, ORIGIN, Clock, kinds, look
from tests.support.webroot import WebRoot, webroot


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebRoot]:
    root = tmp_path / "log"
    write_log(root, ORIGIN, ENTRIES[:290])
    with webroot(root) as server:
        yield server


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "monitor" / "state.json"


def test_a_log_that_grows_is_followed(web: WebRoot, state: Path) -> None:
    first = look(web, state)
    assert (first.first, first.size, first.alarms, first.unknown) == (True, 290, [], {})
    for size in (290, 600, 601, 1000):
        write_log(web.root, ORIGIN, ENTRIES[:size])
        found = look(web, state)
        assert (found.first, found.size, found.alarms, found.unknown) == (False, size, [], {})
    assert json.loads(state.read_bytes())["signed"].encode() == signed_checkpoint(ORIGIN, ENTRIES)


def test_a_rewritten_log_is_a_split_view_and_anybody_can_check_the_evidence(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    write_log(web.root, ORIGIN, ENTRIES[:600])
    look(web, state)
    remembered = state.read_bytes()
    write_log(web.root, ORIGIN, FORKED[:700])
    found = look(web, state)
    assert kinds(found) == ["split_view"]
    assert state.read_bytes() == remembered
    command = [sys.executable, "-m", "provledger_cli", "log", "split-view"]
    evidence = found.alarms[0].evidence
    for key, code in ((KEY, 0), (vkey(ORIGIN, "another"), 1), (KEY[:-3], 2)):
        done = subprocess.run(
            [*command, evidence, "--vkey", key, "--json"], capture_output=True, check=False
        )
        assert done.returncode == code, done.stderr
        assert json.loads(done.stdout).get("holds") is {0: True, 1: False}.get(code)
    # Two heads of one size need no tile at all.
    write_log(web.root, ORIGIN, FORKED[:600])
    assert kinds(look(web, state)) == ["split_view"]
    # And the remembered history, when it comes back, is as good as before.
    write_log(web.root, ORIGIN, ENTRIES[:700])
    assert look(web, state).alarms == []


def test_a_log_that_goes_back_is_told_from_one_that_is_read_late(web: WebRoot, state: Path) -> None:
    write_log(web.root, ORIGIN, ENTRIES[:600])
    look(web, state)
    # An old copy of the checkpoint, as a cache may show it: consistent, if nothing new is in it.
    late = signed_checkpoint(ORIGIN, ENTRIES[:290])
    (web.root / "checkpoint").write_bytes(late)
    found = look(web, state)
    assert (found.size, found.alarms) == (290, [])
    assert look(web, state).held["consistency"] == "with the head of size 600 seen before"
    for path in (web.root / "tile/0").rglob("*"):
        if path.name == "88":
            path.unlink()
    assert kinds(look(web, state)) == ["rolled_back"]


def test_a_bad_signature_and_damaged_tiles_are_alarms(web: WebRoot, state: Path) -> None:
    look(web, state)
    write_log(web.root, ORIGIN, ENTRIES[:600])
    tile = web.root / "tile/0/002.p/88"
    tile.write_bytes(flip(tile.read_bytes(), 3))
    found = look(web, state)
    assert kinds(found) == ["tiles_damaged"]
    assert "tile" in found.alarms[0].message
    signed = signed_checkpoint(ORIGIN, ENTRIES[:600], key="somebody")
    (web.root / "checkpoint").write_bytes(signed)
    assert kinds(look(web, state)) == ["checkpoint_signature"]


def test_checkpoints_from_elsewhere_are_compared(web: WebRoot, state: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.checkpoint"
    with webroot(tmp_path) as elsewhere:
        for place in (str(other), f"{elsewhere.url}/other.checkpoint"):
            other.write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:257]))
            found = look(web, state, others=[place])
            assert found.alarms == []
            assert found.held[f"checkpoint {place}"] == "of size 257, of the same history"
            write_log(web.root, ORIGIN, ENTRIES[:400])
            other.write_bytes(signed_checkpoint(ORIGIN, FORKED[:390]))
            assert kinds(look(web, state, others=[place])) == ["split_view"]
            other.write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:390], key="somebody"))
            assert kinds(look(web, state, others=[place])) == ["checkpoint_signature"]
    found = look(web, state, others=[f"{elsewhere.url}/other.checkpoint"])
    assert found.alarms == []
    assert list(found.unknown) == [f"checkpoint {elsewhere.url}/other.checkpoint"]


@pytest.mark.parametrize(
    "data", [b"", b"<html>try later</html>\n", signed_checkpoint(ORIGIN, ENTRIES[:257])[:60]]
)
def test_what_is_no_checkpoint_tells_nothing(
    web: WebRoot, state: Path, tmp_path: Path, data: bytes
) -> None:
    """Such as a file that was cut, or a page that says to come back later."""
    other = tmp_path / "other.checkpoint"
    other.write_bytes(data)
    found = look(web, state, others=[str(other)])
    assert (found.alarms, list(found.unknown)) == ([], [f"checkpoint {other}"])
    assert "consistency" in found.held
    (web.root / "checkpoint").write_bytes(data)
    found = look(web, state)
    assert (found.alarms, list(found.unknown), found.held) == ([], ["log"], {})
    assert "cannot be read" in found.unknown["log"]


def test_a_log_that_hides_what_others_hold_is_behind(
    web: WebRoot, state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provledger_cli.watching.monitor._PATIENCE_S", 0.0)
    other = tmp_path / "other.checkpoint"
    other.write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:900]))
    assert kinds(look(web, state, others=[str(other)])) == ["behind"]


def test_freshness_is_the_cosigners_word_or_growth(web: WebRoot, state: Path) -> None:
    clock = Clock()
    assert look(web, state, clock, max_age_s=60).alarms == []
    clock.now += 61
    assert kinds(look(web, state, clock, max_age_s=60)) == ["stale"]
    write_log(web.root, ORIGIN, ENTRIES[:300])
    assert look(web, state, clock, max_age_s=60).alarms == []
    signed = (web.root / "checkpoint").read_bytes()
    one, one_key = cosign(signed, "one.example", clock.now - 10)
    both, other_key = cosign(one, "other.example", clock.now - 100)
    policy = parse_policy(
        f"witness a {one_key}\nwitness b {other_key}\ngroup g all a b\nquorum g\n".encode()
    )
    assert kinds(look(web, state, clock, max_age_s=60, policy=policy)) == ["stale"]
    (web.root / "checkpoint").write_bytes(both)
    keys = LogView([one_key]).keys
    assert look(web, state, clock, max_age_s=60, cosigners=keys).alarms == []
    keys = LogView([other_key]).keys
    assert kinds(look(web, state, clock, max_age_s=60, cosigners=keys)) == ["stale"]
    assert kinds(look(web, state, clock, max_age_s=60, policy=policy)) == ["stale"]
    assert look(web, state, clock, max_age_s=200, policy=policy).alarms == []


def test_cosigners_that_are_named_must_have_signed_however_long_ago(
    web: WebRoot, state: Path
) -> None:
    clock = Clock()
    plain = (web.root / "checkpoint").read_bytes()
    signed, key = cosign(plain, "one.example", clock.now - 10**8)
    policy = parse_policy(f"witness a {key}\nquorum a\n".encode())
    for asked in ({"policy": policy}, {"cosigners": LogView([key]).keys}):
        (web.root / "checkpoint").write_bytes(plain)
        assert kinds(look(web, state, clock, **asked)) == ["cosigner_quorum"]
        (web.root / "checkpoint").write_bytes(signed)
        found = look(web, state, clock, **asked)
        assert (found.alarms, "freshness" in found.held) == ([], True)


def test_a_policy_that_asks_for_nobody_is_not_taken(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    policy = tmp_path / "policy"
    policy.write_text(f"log {KEY}\nquorum none\n")
    command = _command(web, state, "--once", "--max-age", "60", "--policy", str(policy))
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, web.asked, b"quorum" in done.stderr) == (2, {}, True)


def test_a_policy_that_cosigners_alone_cannot_meet_is_not_taken(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    """A head has cosignatures in it, and nothing that a sink answered."""
    _, key = cosign((web.root / "checkpoint").read_bytes(), "one.example", 10)
    policy = tmp_path / "policy"
    lines = f"witness a {key}\nsink s s3://bucket/x?mode=COMPLIANCE\n"
    command = _command(web, state, "--once", "--policy", str(policy))
    for quorum in ("group g all a s\nquorum g\n", "quorum s\n"):
        policy.write_text(lines + quorum)
        done = subprocess.run(command, capture_output=True, check=False)
        assert (done.returncode, web.asked, b"cosigners alone" in done.stderr) == (2, {}, True)
    policy.write_text(f"{lines}group g any a s\nquorum g\n")
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"cosigner_quorum" in done.stdout
    assert b"carry no cosignatures" in done.stdout


def test_a_head_without_cosignatures_is_told_from_one_with_those_of_others(
    web: WebRoot, state: Path
) -> None:
    """Our own logs publish their heads without any, for good."""
    plain = (web.root / "checkpoint").read_bytes()
    _, key = cosign(plain, "one.example", 10)
    others, _ = cosign(plain, "other.example", 10)
    policy = parse_policy(f"witness a {key}\nquorum a\n".encode())
    for asked in ({"policy": policy}, {"cosigners": LogView([key]).keys}):
        for signed, never in ((plain, True), (others, False)):
            (web.root / "checkpoint").write_bytes(signed)
            (alarm,) = look(web, state, **asked).alarms
            assert alarm.kind == "cosigner_quorum"
            assert ("carry no cosignatures" in alarm.message) is never


def test_our_entries_must_be_there(tmp_path: Path, state: Path) -> None:
    chain = sample_chain((20, 30))
    export, receipt = tmp_path / "export.ndjson", tmp_path / "receipt.json"
    export.write_bytes(b"".join(chain.export()))
    receipt.write_bytes(chain.receipts()[5].encode())
    assert len(list(receipts_of(export))) == 51
    root = tmp_path / "log"
    write_log(root, chain.origin, chain.leaves)
    view = LogView([vkey(chain.origin)])

    def present(*paths: Path) -> Look:
        memory = Memory(tmp_path / "s.json", view)
        return Monitor(view, DirFiles(root), memory, Wanted(expect=paths)).look()

    assert present(export, receipt).held["entries"].startswith("all 52")
    pretty = tmp_path / "pretty.json"
    pretty.write_text(json.dumps(json.loads(receipt.read_bytes()), indent=60_000))
    assert present(export, pretty).held["entries"].startswith("all 52")
    # Of receipts that another key signed for, it is not known whether they should be there yet.
    write_log(root, chain.origin, chain.leaves[:30])
    (tmp_path / "s.json").unlink()
    later = tmp_path / "later.ndjson"
    later.write_bytes(b"".join(chain.export(chain.receipts(log_key="checkpoint-9"))))
    looked = present(later)
    assert (list(looked.unknown), kinds(looked)) == (["entries"], [])
    index = chain.receipts()[5].proofs[0].log_index
    (tmp_path / "s.json").unlink()
    changed = [*chain.leaves]
    changed[index] = b"another"
    write_log(root, chain.origin, changed)
    assert kinds(present(receipt)) == ["split_view"]
    (tmp_path / "s.json").unlink()
    receipt.write_bytes(chain.receipts(log_key="checkpoint-9")[5].encode())
    assert kinds(present(receipt)) == ["inclusion"]


def test_an_export_that_lacks_receipts_says_nothing_of_them(tmp_path: Path, state: Path) -> None:
    chain = sample_chain((20, 30))
    lines = chain.export()
    write_log(tmp_path / "log", chain.origin, chain.leaves)
    view = LogView([vkey(chain.origin)])
    for name, kept in {
        "made without": chain.export([], head=None, signed=None),
        "taken out": [lines[0], lines[-1]],
        "some taken out": [*lines[:9], lines[-1]],
        "one too many": [*lines[:9], lines[8], *lines[9:]],
    }.items():
        export = tmp_path / f"{name}.ndjson"
        export.write_bytes(b"".join(kept))
        memory = Memory(state.with_name(f"{name}.json"), view)
        look = Monitor(view, DirFiles(tmp_path / "log"), memory, Wanted(expect=[export])).look()
        assert (list(look.unknown), kinds(look)) == (["entries"], []), name
        assert "entries" not in look.held


@pytest.mark.parametrize("size", [5, 30, 51])
def test_a_log_put_back_below_our_receipts_is_behind_what_it_signed_for(
    tmp_path: Path, state: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("provledger_cli.watching.monitor._PATIENCE_S", 0.0)
    chain = sample_chain((20, 30))
    receipt = tmp_path / "receipt.json"
    receipt.write_bytes(chain.receipts()[2].encode())
    root = tmp_path / "log"
    write_log(root, chain.origin, chain.leaves[:size])
    view = LogView([vkey(chain.origin)])
    monitor = Monitor(view, DirFiles(root), Memory(state, view), Wanted(expect=[receipt]))
    look = monitor.look()
    assert kinds(look) == ["behind"]
    assert "entries" not in look.held
    # It grows on, and what is there is ours.
    write_log(root, chain.origin, chain.leaves)
    look = monitor.look()
    assert kinds(look) == []
    assert look.held["entries"].startswith("all 1")


def test_a_log_that_goes_on_otherwise_than_it_signed_for_us_is_a_split_view(
    tmp_path: Path, state: Path
) -> None:
    """Our entry is where it was; what the log signed for it is not."""
    chain = sample_chain((20, 30))
    receipt = tmp_path / "receipt.json"
    receipt.write_bytes(chain.receipts()[5].encode())
    forked = [*chain.leaves]
    forked[40] = b"another"
    write_log(tmp_path / "log", chain.origin, forked)
    view = LogView([vkey(chain.origin)])
    look = Monitor(
        view, DirFiles(tmp_path / "log"), Memory(state, view), Wanted(expect=[receipt])
    ).look()
    assert kinds(look) == ["split_view"]
    assert "entries" not in look.held


@pytest.mark.parametrize("shorter", [0, 1], ids=["same size", "smaller"])
def test_each_head_that_the_log_signed_for_a_receipt_of_ours_is_compared(
    tmp_path: Path, state: Path, shorter: int
) -> None:
    """The one that the log goes on from, and one of another history beside it."""
    chain, fork = sample_chain((20, 30)), sample_chain((20, 30))
    chain.leaves += [b"others", b"more"]
    fork.leaves += [b"theirs", b"more"]
    good = chain.receipts()[5]
    (second,) = fork.receipts(len(fork.leaves) - shorter)[5].proofs
    root = tmp_path / "log"
    write_log(root, chain.origin, chain.leaves)
    view = LogView([vkey(chain.origin)])

    def kinds_for(*proofs: Proof) -> list[str]:
        receipt = tmp_path / "receipt.json"
        receipt.write_bytes(with_changes(good, proofs=proofs).encode())
        memory = Memory(state, view)
        return kinds(Monitor(view, DirFiles(root), memory, Wanted(expect=[receipt])).look())

    assert kinds_for(*good.proofs, *chain.receipts(40)[5].proofs) == []
    assert kinds_for(*good.proofs, second) == ["split_view"]
    assert kinds_for(second, *good.proofs) == ["split_view"]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (rb"290", rb"291"),
        (rb'"signed":.*,"v"', rb'"signed":5,"v"'),
        (rb'"grownAtUnixS":"[0-9]+"', rb'"grownAtUnixS":null'),
        (rb'"v":"1"', rb'"v":"2"'),
        (rb"^.*$", rb"[]"),
    ],
)
def test_a_state_that_is_not_ours_is_not_forgotten_silently(
    web: WebRoot, state: Path, old: bytes, new: bytes
) -> None:
    look(web, state)
    state.write_bytes(re.sub(old, new, state.read_bytes()))
    with pytest.raises(CommandError, match="not what a monitor"):
        look(web, state)


def test_memory_of_before_a_rotation_asks_for_the_key_of_then(web: WebRoot, state: Path) -> None:
    """Its hint must not lead to throwing away what finds a rewrite."""
    look(web, state)
    new = LogView([vkey(ORIGIN, "checkpoint-2")])
    with pytest.raises(CommandError, match="no key that is given") as caught:
        Memory(state, new).load()
    assert "second --vkey" in caught.value.hint
    both = LogView([vkey(ORIGIN), vkey(ORIGIN, "checkpoint-2")])
    assert Memory(state, both).load() is not None


def test_requests_are_bounded_and_tried_again(web: WebRoot, state: Path) -> None:
    answers = iter([(503, b""), (500, b"")])
    web.fault = lambda path: next(answers, None)
    assert look(web, state).size == 290
    assert web.asked["/checkpoint"] == 3
    web.fault = lambda path: (503, b"busy")
    assert "status 503" in look(web, state).unknown["log"]
    web.fault = lambda path: (302, b"")
    assert "status 302" in look(web, state).unknown["log"]
    web.fault = lambda path: (200, b"x" * (2 << 20))
    assert "longer than" in look(web, state).unknown["log"]
    web.fault = lambda path: None
    web.cut = 10
    assert "log" in look(web, state).unknown
    web.cut = 0
    assert look(web, state).alarms == []
    web.close()
    assert "log" in look(web, state).unknown


# --- the command ---------------------------------------------------------------------------------


def _command(web: WebRoot, state: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "provledger_cli", "monitor", web.url, "--vkey", KEY),
        *("--state", str(state), "--json", *options),
    ]


def test_the_command_follows_alarms_and_ends_at_a_split_view(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    with webroot(tmp_path) as hook:
        running = subprocess.Popen(
            _command(web, state, "--interval", "0.05", "--webhook", f"{hook.url}/alarm"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            _until(state.exists)
            tile = web.root / "tile/0/002.p/88"
            write_log(web.root, ORIGIN, ENTRIES[:600])
            whole = tile.read_bytes()
            tile.write_bytes(flip(whole, 0))
            (web.root / "checkpoint").write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:600]))
            _until(lambda: bool(hook.posted) or b"\\n600\\n" in state.read_bytes())
            tile.write_bytes(whole)
            _until(lambda: b"\\n600\\n" in state.read_bytes())
            write_log(web.root, ORIGIN, FORKED[:600])
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
        assert running.returncode == 1
        assert [alarm["alarm"] for alarm in json.loads(out)["alarms"]] == ["split_view"]
        told = [json.loads(body) for body in hook.posted]
        assert told[-1]["alarm"] == "split_view"
        assert told[-1]["origin"] == ORIGIN
    events = [json.loads(line)["event"] for line in err.splitlines() if line.startswith(b"{")]
    assert events[0] == "monitor.head"
    assert events.count("monitor.alarm") == len(told)


def test_the_command_tells_each_alarm_and_clears_none_unseen(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.checkpoint"
    bad.write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:290], key="somebody"))
    with webroot(tmp_path) as hook:
        options = ("--checkpoint", str(bad), "--webhook", hook.url, "--interval", "0.05")
        running = subprocess.Popen(
            _command(web, state, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            _until(lambda: len(hook.posted) == 1)
            signed = signed_checkpoint(ORIGIN, ENTRIES[:290], key="somebody")
            (web.root / "checkpoint").write_bytes(signed)
            _until(lambda: len(hook.posted) == 2)
            web.fault = lambda path: (404, b"")
            asked = web.asked["/checkpoint"]
            _until(lambda: web.asked["/checkpoint"] > asked + 3)
            os.kill(running.pid, signal.SIGTERM)
            out, err = running.communicate(timeout=60)
        finally:
            running.kill()
        assert running.returncode == 1
        found = [(each["alarm"], each["check"]) for each in json.loads(out)["alarms"]]
        assert found == [
            ("checkpoint_signature", f"checkpoint {bad}"),
            ("checkpoint_signature", "consistency"),
        ]
        told = [json.loads(body) for body in hook.posted]
        assert [(each["alarm"], each["check"]) for each in told] == found
    events = [json.loads(line)["event"] for line in err.splitlines() if line.startswith(b"{")]
    assert events.count("monitor.alarm") == 2
    assert "monitor.cleared" not in events


def test_the_webhook_is_told_again_what_it_did_not_take(
    web: WebRoot, state: Path, tmp_path: Path
) -> None:
    """Also of what it refuses for good that time, and what the log does not show any more."""
    refused: list[bytes] = []

    def answer(path: str, body: bytes) -> peers.Reply:
        refused.append(body)
        return (403 if len(refused) < 3 else 200), {}, b""

    bad = tmp_path / "bad.checkpoint"
    bad.write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:290], key="somebody"))
    with peers.scripted(answer) as hook:
        options = ("--checkpoint", str(bad), "--webhook", hook.url, "--interval", "0.05")
        running = subprocess.Popen(
            _command(web, state, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        try:
            _until(lambda: len(refused) >= 1)
            bad.write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:290]))
            _until(lambda: len(refused) >= 3)
            asked = web.asked["/checkpoint"]
            _until(lambda: web.asked["/checkpoint"] > asked + 3)
            os.kill(running.pid, signal.SIGTERM)
            running.communicate(timeout=60)
        finally:
            running.kill()
    assert running.returncode == 0
    (alarm,) = {json.loads(body)["alarm"] for body in refused}
    assert (alarm, len(refused)) == ("checkpoint_signature", 3)


def test_the_command_ends_well_when_it_is_told_to(web: WebRoot, state: Path) -> None:
    running = subprocess.Popen(
        _command(web, state, "--interval", "30"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        _until(state.exists)
        os.kill(running.pid, signal.SIGTERM)
        out, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0
    assert json.loads(out)["holds"] is True


def test_once_says_what_holds_by_its_exit_code(web: WebRoot, state: Path) -> None:
    done = subprocess.run(_command(web, state, "--once"), capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["first_look"]) == (0, True)
    web.close()
    done = subprocess.run(_command(web, state, "--once"), capture_output=True, check=False)
    assert (done.returncode, json.loads(done.stdout)["holds"]) == (2, None)


@pytest.mark.parametrize("interval", ["inf", "1e300", "86401", "0", "nan"])
def test_intervals_that_cannot_be_waited_for_are_refused(
    web: WebRoot, state: Path, interval: str
) -> None:
    command = _command(web, state, "--interval", interval)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "--interval" in done.stderr


def test_a_webhook_that_cannot_be_used_is_told_before_the_first_look(
    web: WebRoot, state: Path
) -> None:
    url = "https://hooks.example/x?token=secret"
    command = _command(web, state, "--once", "--webhook", url)
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, web.asked, b"secret" in done.stderr) == (2, {}, False)


def _until(condition: Any, timeout_s: float = 30.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_the_runbook_of_a_split_view_does_what_it_says(tmp_path: Path) -> None:
    write_log(tmp_path / "log", ORIGIN, ENTRIES[:600])
    view = LogView([KEY])
    memory = Memory(tmp_path / "monitor" / "state.json", view)
    Monitor(view, DirFiles(tmp_path / "log"), memory, Wanted()).look()
    (tmp_path / "held-elsewhere.checkpoint").write_bytes(signed_checkpoint(ORIGIN, ENTRIES[:600]))
    write_log(tmp_path / "log", ORIGIN, FORKED[:700])
    said = run_all("split-view", tmp_path, {"VKEY": KEY})
    assert len(said) == 4
    assert "a split view is proven" in said[1]
    assert "a split view is proven" in said[3]
