"""`keys revoke` and `keys rotate` with a recovery key: wherever it is, whatever it is."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from provledger import kms
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.client.calls import CallPolicy
from provledger.errors import InvalidArgumentError, NotFoundError
from provledger.jwk import Algorithm
from provledger.keyset import KeyState
from provledger.kms import local
from provledger_cli.ceremonies import ceremony, first_keys
from provledger_cli.connect import Remote, Target
from provledger_cli.embedded import bootstrap
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.failures import CommandError
from provledger_cli.verbs.keys_revoke import _check_done
from tests.integration.client_simulator import FakeLedger, serving
from tests.integration.test_keys_svc import Keys, keys_on
from tests.support import softhsm

POLICY = CallPolicy(timeout_s=30.0)
RECEIPT = "tenants/system/ledgers/keys/receipts/019aa2a3-4768-71e1-a1e1-e1e1e1e1e1e1"
NAMES = ("witness", "checkpoint", "head")
REVOKE = ("keys", "revoke", "witness-1", "--reason", "stolen")
REPLACE = (*REVOKE, "--replace-by", "witness-2", "--uri", "local:witness-2.pem", "--create")


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir.at(tmp_path / "data")
    made.make()
    for name in NAMES:
        local.create_key(made.keys / f"{name}-1.pem")
    return made


@pytest.fixture
async def keys(directory: DataDir) -> AsyncIterator[Keys]:
    """A keys service, and what the signing services and the ledger service do for it."""
    async with keys_on(f"sqlite:///{directory.databases / 'keys.sqlite3'}", directory.keys) as made:
        others = asyncio.create_task(services(made))
        yield made
        others.cancel()
        with suppress(asyncio.CancelledError):
            await others


async def services(keys: Keys) -> None:
    """Sign with the active witness key, and endorse and record what is open, until cancelled."""
    while True:
        # Before the keys: one that is revoked with these events is not taken for one that is held.
        events = (await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())).events
        known = {key.kid: key for key in (await keys.ask("ListKeys", pb.ListKeysRequest())).keys}
        signing = [
            pb.SignerKey(purpose=key.purpose, kid=kid, epoch=key.epoch)
            for kid, key in known.items()
            if key.state == pb.KEY_STATE_ACTIVE
        ]
        signer = pb.Signer(watcher="witness", instance="1", keys=signing)
        await keys.ask("ReportSigner", pb.ReportSignerRequest(signer=signer))
        # Nobody opens a key that is revoked, or one that is lost.
        held = {
            kid
            for kid, key in known.items()
            if key.state != pb.KEY_STATE_REVOKED and (keys.key_dir / f"{kid}.pem").exists()
        }
        for each in events:
            if each.state == pb.KEY_EVENT_STATE_SEALED:
                record = pb.RecordKeyEventRequest(digest=each.digest, receipt=RECEIPT)
                await keys.ask("RecordKeyEvent", record)
            elif each.state == pb.KEY_EVENT_STATE_PROPOSED:
                for kid in held & {*each.endorser_kids, each.event.kid}:
                    # A key of which the key ledger has not heard yet comes in later; what a
                    # revocation overtook is gone.
                    with suppress(InvalidArgumentError, NotFoundError):
                        uri = f"local:{kid}.pem"
                        await bootstrap.endorse(keys.stub, POLICY, each, kid, uri, keys.key_dir)
        await asyncio.sleep(0.02)


async def begin(directory: DataDir, keys: Keys, recovery: str) -> None:
    """As `keys init --recovery URI`."""
    target = Target(directory, {"keys": keys.endpoint}, False)
    uris = {name: f"local:{name}-1.pem" for name in NAMES}
    async with Remote(target, timeout_s=30.0) as remote:
        await first_keys.begin(remote, uris, recovery, directory.keys)
    async with asyncio.timeout(60.0):
        while await still_open(keys):  # noqa: ASYNC110 - polled from outside
            await asyncio.sleep(0.02)


async def still_open(keys: Keys) -> set[tuple[int, str]]:
    """Kinds and kids of the events that are not recorded."""
    events = (await keys.ask("ListKeyEvents", pb.ListKeyEventsRequest())).events
    return {
        (each.event.type, each.event.kid)
        for each in events
        if each.state != pb.KEY_EVENT_STATE_RECORDED
    }


async def states_of(keys: Keys) -> dict[str, pb.KeyState]:
    """The state of each key, by kid."""
    answer = await keys.ask("ListKeys", pb.ListKeysRequest())
    return {key.kid: key.state for key in answer.keys}


async def run(directory: DataDir, keys: Keys, *words: str, as_json: bool = True) -> tuple[int, str]:
    """Run a command on that keys service: its exit code, and all that it says."""
    where = ["--endpoint", f"keys={keys.endpoint}", "--data-dir", str(directory.path)]
    env = {name: text for name, text in os.environ.items() if not name.startswith("PROVLEDGER_")}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "provledger_cli", *words, *where, *["--json"] * as_json],
        env=env,
        cwd=directory.path.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


# --- where it is


async def an_encrypted_file(directory: DataDir) -> tuple[str, str]:
    passphrase = directory.keys / "r.pass"
    passphrase.touch(0o600)
    passphrase.write_text("correct horse\n")
    local.create_key(directory.keys / "r.pem", passphrase=b"correct horse")
    uri = "local:r.pem?passphrase-file=r.pass"
    return uri, uri


async def a_token(directory: DataDir) -> tuple[str, str]:
    if softhsm.missing():
        pytest.skip(softhsm.missing())
    hsm, token = softhsm.plain(), f"recovery-{secrets.token_hex(4)}"
    hsm.make_token(token)
    uri = hsm.uri(token, "recovery")
    await kms.create_key(uri, Algorithm.ED25519, directory.keys)
    return uri, uri


async def a_file_below_a_question_mark(directory: DataDir) -> tuple[str, str]:
    below = directory.path.parent / "which?one"
    below.mkdir()
    path = directory.keys / "r.pem"
    local.create_key(path)
    path.rename(below / "r.pem")
    (directory.keys / "r.pem").symlink_to(below / "r.pem")
    return "local:r.pem", "which?one/r.pem"


@pytest.mark.parametrize("place", [an_encrypted_file, a_token, a_file_below_a_question_mark])
async def test_a_recovery_key_that_begins_a_key_ledger_replaces_a_stolen_key(
    directory: DataDir, keys: Keys, place: Callable[[DataDir], Any]
) -> None:
    uri, given = await place(directory)
    await begin(directory, keys, uri)
    code, said = await run(directory, keys, *REPLACE, "--recovery-key", given)
    assert code == 0, said
    assert await still_open(keys) == set()


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("nowhere.pem", "is not there"),
        ("local:", "must look like"),
        ("aws-kms:alias/recovery", "aws-kms:"),
        ("which?.pem", "without a question mark"),
    ],
)
async def test_what_can_be_no_recovery_key_is_refused_at_once(
    directory: DataDir, keys: Keys, given: str, why: str
) -> None:
    (directory.path.parent / "which?.pem").touch(0o600)
    code, said = await run(directory, keys, *REPLACE, "--recovery-key", given)
    assert (code, why in said) == (2, True), said


# --- what is wrong with it


async def refused(directory: DataDir, keys: Keys, *words: str) -> str:
    """Run what cannot be done, and see that nothing was; what is said."""
    before = await keys.ask("ListKeys", pb.ListKeysRequest())
    code, said = await run(directory, keys, *words)
    assert code == 2
    assert "nothing was changed" in said
    assert (await keys.ask("ListKeys", pb.ListKeysRequest())) == before
    assert await still_open(keys) == set()
    assert not (directory.keys / "new.pem").exists()
    return said


REPLACE_BY_NEW = (*REVOKE, "--replace-by", "witness-2", "--uri", "local:new.pem", "--create")
LET_IN = ("keys", "rotate", "--kid", "receipt-1", "--purpose", "receipt", "--no-probe")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("local:other.pem", "is not the recovery key of this installation"),
        ("data/keys/r.pem", "?passphrase-file="),
        ("local:gone.pem", "does not exist"),
    ],
)
@pytest.mark.parametrize("words", [REPLACE_BY_NEW, (*LET_IN, "--uri", "local:new.pem", "--create")])
async def test_nothing_is_changed_before_the_recovery_key_is_known_to_be_right(
    directory: DataDir, keys: Keys, words: tuple[str, ...], given: str, why: str
) -> None:
    uri, _ = await an_encrypted_file(directory)
    local.create_key(directory.keys / "other.pem")
    await begin(directory, keys, uri)
    assert why in await refused(directory, keys, *words, "--recovery-key", given)


async def test_nothing_is_changed_by_a_recovery_key_that_may_not_sign(
    directory: DataDir, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its public half is shown; the right to use it was taken away since the beginning."""
    pytest.importorskip("boto3", reason="needs boto3: pip install 'provledger[aws]'")
    from tests.support.fake_aws_kms import FakeAWSKMS

    with FakeAWSKMS() as aws:
        monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", aws.url)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(directory.path / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(directory.path / "none"))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        uri = f"aws-kms:{aws.add_key('ECC_NIST_EDWARDS25519')}"
        await begin(directory, keys, uri)
        aws.denied = {"Sign"}
        said = await refused(directory, keys, *REPLACE_BY_NEW, "--recovery-key", uri)
        assert "kms:Sign" in said


async def test_the_recovery_key_lets_in_the_first_key_of_a_purpose_by_its_uri(
    directory: DataDir, keys: Keys
) -> None:
    uri, _ = await an_encrypted_file(directory)
    await begin(directory, keys, uri)
    created = ("--uri", "local:receipt-1.pem", "--create")
    code, said = await run(directory, keys, *LET_IN, *created, "--recovery-key", uri)
    assert code == 0, said
    assert RECEIPT in said


async def test_a_key_set_that_is_too_large_keeps_no_stolen_key_in_place(
    directory: DataDir, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not given out then, and must not be needed on the way."""
    uri, _ = await an_encrypted_file(directory)
    await begin(directory, keys, uri)
    monkeypatch.setattr("keys_svc.room.MAX_JWKS_BYTES", 1)
    code, said = await run(directory, keys, *REPLACE, "--recovery-key", uri, as_json=False)
    assert code == 0, said
    assert "cannot be told" in said
    assert RECEIPT in said
    assert await still_open(keys) == set()
    states = await states_of(keys)
    assert states["witness-1"] == pb.KEY_STATE_REVOKED
    assert states["witness-2"] == pb.KEY_STATE_ACTIVE


# --- what was left open


async def test_nothing_is_revoked_before_a_service_can_sign_with_the_new_key(
    directory: DataDir, keys: Keys
) -> None:
    """Its file is not where the service finds it; put there, the same command does it."""
    uri, _ = await an_encrypted_file(directory)
    await begin(directory, keys, uri)
    replace = (*REPLACE_BY_NEW, "--recovery-key", uri)
    code, said = await run(directory, keys, *replace, "--timeout", "3")
    assert (code, "nothing was revoked" in said) == (2, True), said
    assert "signs with the witness key" in said
    states = {key.kid: key.state for key in await keys.jwks()}
    assert states["witness-1"] is KeyState.ACTIVE
    # As if the service were allowed to open it now.
    (directory.keys / "new.pem").rename(directory.keys / "witness-2.pem")
    code, said = await run(directory, keys, *replace)
    assert code == 0, said
    assert await still_open(keys) == set()


async def test_a_revocation_that_the_key_ledger_does_not_have_in_time_is_told() -> None:
    event = pb.KeyEvent(type=pb.KEY_EVENT_TYPE_REVOKED, kid="witness-1")
    events = [pb.JournaledKeyEvent(event=event, state=pb.KEY_EVENT_STATE_PROPOSED)]

    async def call(*_: Any) -> pb.ListKeyEventsResponse:
        return pb.ListKeyEventsResponse(events=events)

    remote: Any = SimpleNamespace(call=call, keys=SimpleNamespace(ListKeyEvents=None))
    assert await ceremony.wait_recorded(remote, "witness-1", -1.0) is None
    done = {"key": {"kid": "witness-1", "purpose": "witness"}, "active": "witness-3"}
    with pytest.raises(CommandError, match="the key ledger does not say so") as caught:
        _check_done(done, False, None, 30.0)
    assert caught.value.exit_code == 2
    unused = pb.Key(kid="witness-2", state=pb.KEY_STATE_PENDING)
    with pytest.raises(
        CommandError, match=r"does not say so .*; and witness-2 \(pending\) did not"
    ):
        _check_done(done, False, unused, 30.0)
    events[0].receipt = RECEIPT
    assert await ceremony.wait_recorded(remote, "witness-1", -1.0) == RECEIPT
    # Where there is nothing to wait for, it is well.
    events.clear()
    assert await ceremony.wait_recorded(remote, "witness-1", -1.0) == ""
    _check_done(done, True, None, 30.0)


async def test_a_new_key_that_another_ceremony_was_ahead_of_is_not_called_the_replacement(
    directory: DataDir, keys: Keys
) -> None:
    """A second operator rotates while the revocation waits until its own key can be used."""
    uri, _ = await an_encrypted_file(directory)
    await begin(directory, keys, uri)
    replace = (*REPLACE_BY_NEW, "--recovery-key", uri)
    revoking = asyncio.create_task(run(directory, keys, *replace))
    async with asyncio.timeout(60.0):
        while "witness-2" not in await states_of(keys):  # noqa: ASYNC110 - polled from outside
            await asyncio.sleep(0.02)
    rotate = ("keys", "rotate", "--no-probe", "--kid", "witness-3")
    code, said = await run(directory, keys, *rotate, "--uri", "local:witness-3.pem", "--create")
    assert code == 0, said
    # From now on a service can open it.
    (directory.keys / "new.pem").rename(directory.keys / "witness-2.pem")
    code, said = await revoking
    states = await states_of(keys)
    assert [states[f"witness-{number}"] for number in (1, 2, 3)] == [
        pb.KEY_STATE_REVOKED,
        pb.KEY_STATE_PENDING,
        pb.KEY_STATE_ACTIVE,
    ], said
    assert (code, '"replaced_by": null' in said, '"active": "witness-3"' in said) == (2, True, True)
    assert "witness-1 is revoked, but witness-2 (pending) did not take its place" in said
    assert "keys revoke witness-3 --replace-by witness-2" in said
    # Run again, it is not done either; what it says to do is.
    code, said = await run(directory, keys, *replace)
    assert (code, "did not take its place" in said) == (2, True), said
    code, said = await run(directory, keys, *rotate[:-1], "witness-2")
    assert code == 0, said
    code, said = await run(directory, keys, *replace)
    assert code == 0, said


async def test_a_replacement_that_nobody_endorsed_is_finished_by_the_same_revocation(
    directory: DataDir, keys: Keys
) -> None:
    """As by a command that was killed before the recovery key had signed."""
    uri, _ = await an_encrypted_file(directory)
    await begin(directory, keys, uri)
    await keys.create(**keys.make("witness-2"))
    revoke = pb.RevokeKeyRequest(kid="witness-1", reason="stolen", replacement_kid="witness-2")
    await keys.ask("RevokeKey", revoke)
    again = "keys revoke witness-1 --replace-by witness-2"
    rotate = ("keys", "rotate", "--no-probe", "--kid")
    third = (*rotate, "witness-3", "--uri", "local:witness-3.pem", "--create")
    for words in (
        (*rotate, "witness-2"),
        (*rotate, "witness-2", "--cancel"),
        third,
        (*REVOKE, "--replace-by", "witness-2"),
    ):
        code, said = await run(directory, keys, *words)
        assert (code, again in said) == (2, True), said
    left = await still_open(keys)
    assert (pb.KEY_EVENT_TYPE_ROTATED, "witness-2") in left
    code, said = await run(
        directory, keys, *REVOKE, "--replace-by", "witness-2", "--recovery-key", uri
    )
    assert code == 0, said
    for words in ((*rotate, "witness-2"), third):
        code, said = await run(directory, keys, *words)
        assert code == 0, said


async def test_a_rotation_to_the_active_key_changes_nothing_and_probes_nothing(
    directory: DataDir, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    async def create(self: FakeLedger, request: Any, context: Any) -> Any:
        made.append(request.ledger_id)
        raise InvalidArgumentError("NO_PROBES", "not here")

    monkeypatch.setattr(FakeLedger, "CreateLedger", create)
    uri, _ = await an_encrypted_file(directory)
    await begin(directory, keys, uri)
    async with serving(FakeLedger()) as endpoint:
        same = ("keys", "rotate", "--kid", "witness-1", "--endpoint", f"ledger={endpoint}")
        code, said = await run(directory, keys, *same, as_json=False)
        assert code == 0, said
        assert made == []
        assert not any(each in said for each in ("none kept", "keys jwks"))
        assert "nothing was changed" in " ".join(said.split())
        code, said = await run(directory, keys, *same)
        assert (code, '"was_active": true' in said) == (0, True), said
    code, said = await run(
        directory, keys, "keys", "rotate", "--kid", "witness-2", "--no-probe", "--uri",
        "local:witness-2.pem", "--create",
    )  # fmt: skip
    assert code == 0, said
    assert '"was_active": false' in said


async def test_a_rotation_from_a_key_that_is_lost_says_who_can_endorse_it(
    directory: DataDir, keys: Keys
) -> None:
    """What the new key alone has endorsed tells that the ledger service is not what is away."""
    uri, _ = await an_encrypted_file(directory)
    await begin(directory, keys, uri)
    lost = directory.keys / "witness-1.pem"
    lost.rename(lost.with_name("elsewhere"))
    rotate = ("keys", "rotate", "--no-probe", "--kid", "witness-2")
    made = ("--uri", "local:witness-2.pem", "--create", "--timeout", "10")
    code, said = await run(directory, keys, *rotate, *made)
    assert code == 2
    assert "not by the old key, witness-1" in said
    assert "keys revoke witness-1 --replace-by witness-2 --after" in said
    assert "--recovery-key" in said
    assert "--cancel" in said
    assert "is the ledger service up" not in said
    assert "signs on" not in said
    # It is as it says: either of the two ends it.
    assert (await run(directory, keys, *rotate, "--cancel"))[0] == 0
    assert (await run(directory, keys, *rotate, "--timeout", "3"))[0] == 2
    replace = (*REVOKE, "--replace-by", "witness-2", "--recovery-key", uri)
    code, said = await run(directory, keys, *replace)
    assert code == 0, said


async def test_a_rotation_that_another_command_takes_back_is_told_at_once(
    directory: DataDir, keys: Keys
) -> None:
    """Nothing is to come any more, however long one waits: the old key cannot endorse it."""
    uri, _ = await an_encrypted_file(directory)
    await begin(directory, keys, uri)
    (directory.keys / "witness-1.pem").rename(directory.keys / "elsewhere")
    local.create_key(directory.keys / "witness-2.pem")
    jwk = await first_keys._public_jwk("witness", "local:witness-2.pem", directory.keys)
    request = pb.RotateKeyRequest(
        kid="witness-2", purpose=pb.KEY_PURPOSE_WITNESS, uri="local:witness-2.pem", jwk=jwk
    )
    await keys.ask("RotateKey", request)
    told = asyncio.Event()
    target = Target(directory, {"keys": keys.endpoint}, False)
    async with Remote(target, timeout_s=30.0) as remote:
        waiting = asyncio.create_task(
            ceremony.wait_until_active(remote, "witness-2", 300.0, lambda text: told.set())
        )
        async with asyncio.timeout(20.0):
            await told.wait()
            await keys.ask("CancelRotation", pb.CancelRotationRequest(kid="witness-2"))
            with pytest.raises(CommandError, match="taken back"):
                await waiting


@pytest.mark.parametrize(
    ("endorsed", "named", "not_named"),
    [
        ((), "is the ledger service up?", "witness-1"),
        (("witness-1",), "not by witness-2", "is the ledger service up"),
        (("witness-1", "witness-2"), "waits for its turn", "is the ledger service up"),
    ],
)
async def test_what_a_rotation_waits_for_is_told_by_who_endorsed_it(
    endorsed: tuple[str, ...], named: str, not_named: str
) -> None:
    one = pb.JournaledKeyEvent(
        event=pb.KeyEvent(type=pb.KEY_EVENT_TYPE_CREATED, kid="witness-2"),
        state=pb.KEY_EVENT_STATE_PROPOSED,
        endorser_kids=["witness-1"],
        endorsements=[pb.KeyEndorsement(kid=kid) for kid in endorsed],
    )
    rotated = pb.JournaledKeyEvent(
        event=pb.KeyEvent(type=pb.KEY_EVENT_TYPE_ROTATED, kid="witness-2"),
        state=pb.KEY_EVENT_STATE_PROPOSED,
    )
    answers = {
        "GetJwks": pb.GetJwksResponse(jwks=b'{"keys":[]}'),
        "ListKeyEvents": pb.ListKeyEventsResponse(events=[one, rotated]),
        "ListSigners": pb.ListSignersResponse(),
    }

    async def call(method: str, request: Any) -> Any:
        return answers[method]

    remote: Any = SimpleNamespace(
        call=call, keys=SimpleNamespace(**{name: name for name in answers})
    )
    said: list[str] = []
    with pytest.raises(CommandError) as caught:
        await ceremony.wait_until_active(remote, "witness-2", -1.0, said.append)
    (text,) = said
    assert named in text
    assert not_named not in text
    assert text in caught.value.message
    assert "--cancel" in caught.value.hint
    assert "old key signs on" in caught.value.hint


async def test_a_key_is_not_called_active_before_the_key_ledger_says_so() -> None:
    """Endorsed by the recovery key, and the ledger service is away."""
    event = pb.KeyEvent(type=pb.KEY_EVENT_TYPE_ROTATED, kid="witness-2")
    one = pb.JournaledKeyEvent(event=event, state=pb.KEY_EVENT_STATE_SEALED)
    genesis = pb.JournaledKeyEvent(
        event=pb.KeyEvent(type=pb.KEY_EVENT_TYPE_GENESIS, kid="recovery-1"),
        state=pb.KEY_EVENT_STATE_RECORDED,
    )

    async def call(*_: Any) -> pb.ListKeyEventsResponse:
        return pb.ListKeyEventsResponse(events=[genesis, one])

    remote: Any = SimpleNamespace(call=call, keys=SimpleNamespace(ListKeyEvents=None))
    with pytest.raises(CommandError, match="the key ledger does not say so"):
        await ceremony.wait_until_told(remote, "witness-2", -1.0)
    one.state = pb.KEY_EVENT_STATE_PROPOSED
    one.endorser_kids.append("witness-1")
    one.endorsements.add(kid="recovery-1")
    with pytest.raises(CommandError, match="not by witness-2") as caught:
        await ceremony.wait_until_told(remote, "witness-2", -1.0)
    assert "ledger service" not in caught.value.hint
    one.state, one.receipt = pb.KEY_EVENT_STATE_RECORDED, RECEIPT
    assert await ceremony.wait_until_told(remote, "witness-2", -1.0) == RECEIPT
