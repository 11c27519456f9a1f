"""A real log, anchored by a policy: notaries of ours, an authority, and sinks that fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.opening import open_sinks
from anchor_svc.openlog import OpenLog
from anchor_svc.sinks import open_sink
from anchor_svc.sinks.cosigner import CosignerSink
from notary_svc.signing import Cosigner
from provledger import checkpoint, note
from provledger.note import parse_vkey
from provledger.policy import parse_policy
from provledger.retry import RetryPolicy
from tests.support import peers
from tests.support.anchoring import Ledger, TestKeys, eventually, running_log, submit
from tests.support.anchoring import log_vkey as vkey_of
from tests.support.chain import START_NS
from tests.support.notary import NOTARY, running_notary

pytestmark = pytest.mark.timeout(60)


def _hurry(log: OpenLog) -> None:
    log.relays._deadline_s = 0.5
    log.relays._retry = RetryPolicy(attempts=10_000, base_s=0.01, cap_s=0.02, budget_s=1000)


class _Log:
    """What a notary must know of our log before it knows us."""

    def __init__(self, vkey: str) -> None:
        self.vkey = vkey


async def _log_vkey(directory: Path, keys: TestKeys) -> str:
    async with running_log(f"sqlite:///{directory}/log.db", directory, keys=keys) as log:
        return vkey_of(log, keys)


async def test_policy_of_cosigner_and_sink(tmp_path: Path) -> None:
    """Anchored once the notary has cosigned and the directory has it, without the dead one."""
    keys = TestKeys()
    known: Any = [_Log(await _log_vkey(tmp_path, keys))]
    async with running_notary(tmp_path / "notary", known) as address:
        vkeys = Cosigner.open(NOTARY, tmp_path / "notary" / "data").vkeys
        text = (
            f"witness n {vkeys[0]} http://{address}\n"
            f"sink copy file://{tmp_path}/copy\n"
            f"sink dead http://127.0.0.1:1?protocol=tlog-witness&vkey={vkeys[1]}\n"
            "group some any copy dead\ngroup both all n some\nquorum both\nwithin 1m\n"
        )
        policy = parse_policy(text.encode())
        sinks = open_sinks([], policy)
        ledger = Ledger()
        ledger.grow(20)
        async with running_log(
            f"sqlite:///{tmp_path}/log.db",
            tmp_path,
            keys=keys,
            sinks=sinks,
            policy=policy,
            background=True,
            prepare=_hurry,
        ) as log:
            for start in range(0, 20, 5):
                await submit(log, ledger, start, start + 5)
            await eventually(lambda: log.state.anchored_size == 21)
            assert not log.state.promise().overdue
            proven = await log.reader.batch_inclusion(ledger.uid, [0, 19], 0)
            assert proven.anchored
            assert {row.kind for row in proven.evidence} == {"file", "tlog-cosignature"}
            (cosigned,) = [row for row in proven.evidence if row.kind == "tlog-cosignature"]
            opened = note.open(cosigned.evidence, [vkeys[0]])
            assert opened.text == note.parse(proven.checkpoint.note).text


async def test_notary_that_was_away_gets_what_it_missed(tmp_path: Path) -> None:
    """Its answers are lost at first, and then it is gone: nothing is lost, no append is refused."""
    keys = TestKeys()
    known: Any = [_Log(await _log_vkey(tmp_path, keys))]
    ledger = Ledger()
    async with running_notary(tmp_path / "notary", known) as address:
        vkeys = Cosigner.open(NOTARY, tmp_path / "notary" / "data").vkeys
        lost = 2
        away = False

        def forward(path: str, body: bytes) -> peers.Reply | None:
            nonlocal lost
            import http.client

            if away:
                return 503, {}, b""
            connection = http.client.HTTPConnection(address, timeout=5)
            connection.request("POST", path, body)
            answer = connection.getresponse()
            data = answer.read()
            if answer.status == 200 and lost:
                lost -= 1
                return None  # it has cosigned and stored, and we never hear of it
            return answer.status, {"Content-Type": answer.headers["content-type"]}, data

        with peers.scripted(forward) as server:
            sink = CosignerSink("cosigner:test", server.url, [parse_vkey(text) for text in vkeys])
            async with running_log(
                f"sqlite:///{tmp_path}/log.db",
                tmp_path,
                keys=keys,
                sinks=[sink],
                background=True,
                prepare=_hurry,
            ) as log:
                ledger.grow(5)
                await submit(log, ledger)
                await eventually(lambda: log.state.anchored_size == 6)
                away = True
                for _ in range(5):
                    ledger.grow(5)
                    await submit(log, ledger, len(ledger.entries) - 5)
                assert log.state.anchored_size < 31
                away = False
                await eventually(lambda: log.state.anchored_size == 31)
                assert lost == 0


async def test_circuit_opens_and_closes(tmp_path: Path) -> None:
    directory = tmp_path / "copy"
    directory.write_text("in the way")
    sink = open_sink(f"file://{directory}")
    ledger = Ledger()
    ledger.grow(3)
    async with running_log(
        f"sqlite:///{tmp_path}/log.db", tmp_path, sinks=[sink], background=True, prepare=_hurry
    ) as log:
        await submit(log, ledger)
        await eventually(lambda: log.relays._failures.get(sink.uri, 0) >= 8)
        directory.unlink()
        await eventually(lambda: log.state.anchored_size == 4)
        assert log.relays._failures == {}


async def test_overdue_is_told_and_ends(tmp_path: Path) -> None:
    now_ns = START_NS
    directory = tmp_path / "copy"
    directory.write_text("in the way")
    text = f"sink copy file://{directory}\nquorum copy\nwithin 10s\nmode fail-closed\n"
    policy = parse_policy(text.encode())
    ledger = Ledger()
    ledger.grow(3)
    async with running_log(
        f"sqlite:///{tmp_path}/log.db",
        tmp_path,
        sinks=open_sinks([], policy),
        policy=policy,
        background=True,
        prepare=_hurry,
        clock=lambda: now_ns,
    ) as log:
        await submit(log, ledger)
        await eventually(lambda: log.state.published_size == 4)
        await log.overdue.look()
        assert not log.state.promise().overdue
        now_ns += 11 * 1_000_000_000
        await log.overdue.look()
        assert log.state.promise().overdue
        # Internal logging goes on all the same.
        ledger.grow(2)
        await submit(log, ledger, 3)
        directory.unlink()
        await eventually(lambda: log.state.anchored_size == 6)
        await log.overdue.look()
        assert not log.state.promise().overdue


# --- other keys of a cosigner that is asked already


@contextmanager
def cosigning(cosigner: Cosigner, lines: Callable[[list[bytes]], list[bytes]]) -> Iterator[str]:
    """The URL of a cosigner that answers with what `lines` keeps of its cosignatures."""

    def answer(path: str, body: bytes) -> peers.Reply:
        text = note.parse(body.partition(b"\n\n")[2]).text
        return 200, {}, b"".join(lines(list(cosigner.cosign(text, 1))))

    with peers.scripted(answer) as server:
        yield server.url


def _asking(url: str, vkeys: list[str]) -> bytes:
    """A policy that asks for a cosignature by each of these keys."""
    names = [f"n{number}" for number in range(len(vkeys))]
    lines = [f"witness {name} {vkey} {url}" for name, vkey in zip(names, vkeys, strict=True)]
    lines += [f"group each all {' '.join(names)}", "quorum each", "within 10s", "mode fail-closed"]
    return "\n".join([*lines, ""]).encode()


async def test_cosigner_is_asked_again_for_a_key_that_is_new(
    database_url: str, tmp_path: Path
) -> None:
    """The log is quiet, and with fail-closed nothing newer would ever come."""
    ledger, now_ns = Ledger(), START_NS
    cosigner = Cosigner.open(NOTARY, tmp_path)
    first, second = cosigner.vkeys
    options: dict[str, Any] = {"background": True, "prepare": _hurry, "clock": lambda: now_ns}
    with cosigning(cosigner, lambda lines: lines) as url:
        async with running_log(database_url, tmp_path, **options) as log:
            await log.policies.set("", _asking(url, [first]), "alice")
            ledger.grow(5)
            await submit(log, ledger)
            await eventually(lambda: log.state.anchored_size == 6)
            before = await log.reader.inclusion(0, 6)
            now_ns += 60 * 1_000_000_000
            await log.policies.set("", _asking(url, [first, second]), "alice")
            await eventually(lambda: log.state.anchored_size == 6)
            await log.overdue.look()
            assert not log.state.promise().overdue
            # Whoever goes by the key of before still finds what it said first.
            (row,) = (await log.reader.inclusion(0, 6)).evidence
            (old,) = before.evidence
            assert row.evidence.startswith(old.evidence)
            assert len(note.open(row.evidence, [first, second]).signatures) == 2


async def test_cosigner_is_asked_again_for_a_key_that_was_new_to_an_earlier_process(
    database_url: str, tmp_path: Path
) -> None:
    ledger = Ledger()
    cosigner = Cosigner.open(NOTARY, tmp_path)
    first, second = cosigner.vkeys
    with cosigning(cosigner, lambda lines: lines) as url:
        async with running_log(database_url, tmp_path, background=True, prepare=_hurry) as log:
            await log.policies.set("", _asking(url, [first]), "alice")
            ledger.grow(5)
            await submit(log, ledger)
            await eventually(lambda: log.state.anchored_size == 6)
        # Nothing is relayed by this one.
        async with running_log(database_url, tmp_path) as log:
            await log.policies.set("", _asking(url, [second]), "alice")
            assert log.state.anchored_size == 0
        async with running_log(database_url, tmp_path, background=True, prepare=_hurry) as log:
            await eventually(lambda: log.state.anchored_size == 6)


async def test_cosigner_that_has_its_new_key_later_is_asked_until_it_has(tmp_path: Path) -> None:
    ledger = Ledger()
    cosigner = Cosigner.open(NOTARY, tmp_path)
    first, second = cosigner.vkeys
    known, asked = 1, 0

    def lines(made: list[bytes]) -> list[bytes]:
        nonlocal asked
        asked += 1
        return made[:known]

    with cosigning(cosigner, lines) as url:
        async with running_log(
            f"sqlite:///{tmp_path}/log.db", tmp_path, background=True, prepare=_hurry
        ) as log:
            await log.policies.set("", _asking(url, [first]), "alice")
            ledger.grow(5)
            await submit(log, ledger)
            await eventually(lambda: log.state.anchored_size == 6)
            await log.policies.set("", _asking(url, [first, second]), "alice")
            since = asked
            await eventually(lambda: asked >= since + 3)
            assert log.state.anchored_size == 0
            known = 2
            await eventually(lambda: log.state.anchored_size == 6)
            # Then it has said all that it was asked for.
            assert log.relays._lacking == {}


# --- one cosigner, by two sinks


class _Late:
    """A cosigner at two paths. It answers at `/late` once `end` is set, and is one and the same."""

    def __init__(self, cosigner: Cosigner, held: int = 0) -> None:
        self._cosigner = cosigner
        self._lock = threading.Lock()
        self.held = held
        self.end = threading.Event()
        self.forked = False

    def answer(self, path: str, body: bytes) -> peers.Reply:
        if path.startswith("/late"):
            assert self.end.wait(30)
        head, _, signed = body.partition(b"\n\n")
        text = note.parse(signed).text
        with self._lock:
            if head.split()[1] != b"%d" % self.held:
                return 409, {"Content-Type": "text/x.tlog.size"}, b"%d\n" % self.held
            if self.forked:
                return 422, {}, b""
            self.held = checkpoint.parse(text).size
            return 200, {}, b"".join(self._cosigner.cosign(text, 1))


def _patient(log: OpenLog) -> None:
    _hurry(log)
    log.relays._deadline_s = 30


async def test_checkpoint_that_another_sink_handed_to_the_same_cosigner_is_no_alarm(
    tmp_path: Path,
) -> None:
    late = _Late(Cosigner.open(NOTARY, tmp_path))
    query = f"?protocol=tlog-witness&vkey={late._cosigner.vkeys[0]}"
    ledger = Ledger()
    with peers.scripted(late.answer) as server:
        sinks = [open_sink(f"{server.url}{path}{query}") for path in ("", "/late")]
        async with running_log(
            f"sqlite:///{tmp_path}/log.db",
            tmp_path,
            sinks=sinks,
            background=True,
            prepare=_patient,
        ) as log:
            await eventually(lambda: log.relays._busy.get(sinks[1].uri) == 1)
            ledger.grow(5)
            await submit(log, ledger)
            await eventually(lambda: log.relays._cursors[sinks[0].uri] == 6)
            late.end.set()
            await eventually(lambda: log.state.anchored_size == 6)
            assert [one.trouble for one in await log.relays.status()] == [None, None]


async def test_another_history_is_an_alarm_even_if_it_is_no_larger_than_ours_by_then(
    tmp_path: Path,
) -> None:
    late = _Late(Cosigner.open(NOTARY, tmp_path), held=4)
    late.forked = True
    ledger = Ledger()
    with peers.scripted(late.answer) as server:
        sink = open_sink(f"{server.url}/late?protocol=tlog-witness&vkey={late._cosigner.vkeys[0]}")
        async with running_log(
            f"sqlite:///{tmp_path}/log.db",
            tmp_path,
            sinks=[sink],
            background=True,
            prepare=_patient,
        ) as log:
            await eventually(lambda: log.relays._busy.get(sink.uri) == 1)
            for start in range(5):
                ledger.grow(1)
                await submit(log, ledger, start)
                await eventually(lambda start=start: log.state.published_size == start + 2)  # type: ignore[misc]
            late.end.set()

            def alarmed() -> bool:
                trouble = log.relays._troubles.get(sink.uri)
                return trouble is not None and trouble.needs_person

            await eventually(alarmed)
            assert "another history" in log.relays._troubles[sink.uri].message
            assert log.state.anchored_size == 0
