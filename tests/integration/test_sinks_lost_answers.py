"""Failed but persisted, at every sink: it took the checkpoint, and we never heard of it.

A real log relays to a real sink. The answers to the first attempts are lost after they took effect.
In the end there is evidence for what was published, and nothing at the sink is there twice.
"""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from anchor_svc.sinks import AnchorSink, Evidence, PublishedCheckpoint, SinkError, open_sink
from anchor_svc.sinks.s3 import S3Sink
from provledger import checkpoint as checkpoints
from provledger import note, timestamp
from tests.integration.test_anchor_quorum import _hurry
from tests.support import peers
from tests.support.anchoring import Ledger, TestKeys, check_log, eventually, running_log, submit
from tests.support.strict_store import strict_store

pytestmark = [pytest.mark.timeout(120), pytest.mark.faults]


class Lost:
    """A sink whose first answers are lost after they took effect."""

    def __init__(self, inner: AnchorSink, left: int = 2) -> None:
        self.uri = inner.uri
        self.left = left
        self._inner = inner

    async def anchor(self, checkpoint: PublishedCheckpoint) -> Evidence:
        evidence = await self._inner.anchor(checkpoint)
        if self.left:
            self.left -= 1
            raise SinkError("the answer was lost")
        return evidence

    async def close(self) -> None:
        await self._inner.close()


class Place:
    """Where a sink keeps what it was given. `held`: the notes there, each as often as it is.

    check: evidence for a note, by whatever is outside of us.
    """

    def __init__(
        self,
        sink: AnchorSink,
        held: Callable[[], list[bytes]],
        check: Callable[[bytes, bytes], None],
    ) -> None:
        self.sink = sink
        self.held = held
        self.check = check


def in_files(folder: Path, git: bool) -> Place:
    root = folder / "copies"
    sink = open_sink(f"file://{root}{'?git=1' if git else ''}")

    def held() -> list[bytes]:
        if not git:
            return [path.read_bytes() for path in root.glob("*/*.checkpoint")]
        show = ["git", "-C", str(root), "log", "--format=%H"]
        commits = subprocess.run(show, check=True, capture_output=True, text=True).stdout.split()
        latest = next(root.glob("*/latest")).parent.name + "/latest"
        return [
            subprocess.run(
                ["git", "-C", str(root), "show", f"{commit}:{latest}"],
                check=True,
                capture_output=True,
            ).stdout
            for commit in commits
        ]

    def check(signed: bytes, evidence: bytes) -> None:
        value = json.loads(evidence)
        assert (root / value["name"]).read_bytes() == signed
        assert ("commit" in value) == git

    return Place(sink, held, check)


def at_an_authority(folder: Path, stack: ExitStack) -> Place:
    authority = peers.OpenSSLAuthority(folder / "tsa")
    server = stack.enter_context(peers.scripted(authority.answer))
    files = f"cert={authority.cert}&chain={authority.chain}"
    sink = open_sink(f"{server.url}/tsr?protocol=rfc3161&{files}")

    def check(signed: bytes, evidence: bytes) -> None:
        origin = checkpoints.parse(note.parse(signed).text).origin
        token = timestamp.parse_evidence(evidence)
        authority.verify(timestamp.imprint_message(signed, origin), token.response)

    # It keeps nothing: another token for the same checkpoint says as much as the first.
    return Place(sink, list, check)


class LosingClient:
    """A store whose answers to the first uploads of checkpoints are lost on their way."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self._left = 2

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def put_object(self, **arguments: Any) -> Any:
        from botocore.exceptions import ReadTimeoutError

        answer = self._inner.put_object(**arguments)
        if self._left and arguments["Key"].endswith(".checkpoint"):
            self._left -= 1
            raise ReadTimeoutError(endpoint_url="lost")
        return answer


def in_a_bucket(stack: ExitStack) -> Place:
    url, _ = stack.enter_context(strict_store())
    client = peers.s3_client(url)
    client.create_bucket(Bucket="audit", ObjectLockEnabledForBucket=True)
    sink = S3Sink.from_uri(f"s3://audit/a?mode=COMPLIANCE&endpoint={url}")
    sink._connect = lambda: LosingClient(client)

    def held() -> list[bytes]:
        versions = client.list_object_versions(Bucket="audit", Prefix="a/")["Versions"]
        return [
            client.get_object(Bucket="audit", Key=each["Key"], VersionId=each["VersionId"])[
                "Body"
            ].read()
            for each in versions
            if each["Key"].endswith(".checkpoint")
        ]

    def check(signed: bytes, evidence: bytes) -> None:
        value = json.loads(evidence)
        place = {"Bucket": "audit", "Key": value["key"], "VersionId": value["versionId"]}
        assert client.get_object(**place)["Body"].read() == signed
        with pytest.raises(client.exceptions.ClientError):
            client.delete_object(**place)

    return Place(sink, held, check)


@pytest.fixture(params=["file", "git", "rfc3161", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        makers: dict[str, Callable[[], Place]] = {
            "file": lambda: in_files(tmp_path, git=False),
            "git": lambda: in_files(tmp_path, git=True),
            "rfc3161": lambda: at_an_authority(tmp_path, stack),
            "s3": lambda: in_a_bucket(stack),
        }
        yield makers[request.param]()


async def test_lost_answers_double_nothing_and_evidence_comes(place: Place, tmp_path: Path) -> None:
    keys, ledger, sink = TestKeys(), Ledger(), Lost(place.sink)
    url = f"sqlite:///{tmp_path}/log.db"

    def patient(log: Any) -> None:
        _hurry(log)
        log.relays._deadline_s = 30.0

    async with running_log(
        url, tmp_path, keys=keys, sinks=[sink], background=True, prepare=patient
    ) as log:
        for _ in range(4):
            start = len(ledger.entries)
            ledger.grow(3)
            await submit(log, ledger, start)
            size = log.state.signed_size
            await eventually(lambda size=size: log.state.anchored_size == size, 60)  # type: ignore[misc]
        assert sink.left == 0
        rows = list(await log.reader.anchors(None, "", 100))
        assert {row.size for row in rows} >= {4, 7, 10, 13}
        assert max(Counter(row.size for row in rows).values()) == 1
        for row in rows:
            signed = await log.reader.checkpoint(row.size)
            place.check(signed.note, row.evidence)
        held = Counter(place.held())
        assert all(count == 1 for count in held.values())
        if held:
            published = {(await log.reader.checkpoint(row.size)).note for row in rows}
            assert published <= set(held)
        await check_log(log, [ledger], keys)
