"""Credentials that are renewed in their file while a key is open: AWS KMS and Cloud KMS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from provledger.kms import _aws_client, signing
from provledger.kms.aws import AWSProvider
from provledger.kms.errors import KMSPermissionError, KMSUnavailableError
from provledger.kms.remote import MAX_IN_FLIGHT, RemoteSigner
from tests.integration.test_kms_aws import ED25519, MESSAGE, aws, environment  # noqa: F401
from tests.support.fake_aws_kms import FakeAWSKMS
from tests.support.signing import until_signed

pytest.importorskip("boto3", reason="needs boto3: pip install 'provledger[aws]'")


class Clock:
    """Seconds that a test lets pass."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Account:
    """An AWS account's access keys, and the credentials file of our service."""

    def __init__(self, kms: FakeAWSKMS, path: Path) -> None:
        self.kms = kms
        self.path = path

    def activate(self, *ids: str) -> None:
        """Those that are active from now on."""
        self.kms.access_keys = set(ids)

    def write(self, key_id: str) -> None:
        """Put an access key into the file, as whoever renews them does."""
        new = self.path.with_suffix(".new")
        new.write_text(f"[default]\naws_access_key_id = {key_id}\naws_secret_access_key = s\n")
        new.replace(self.path)


@pytest.fixture
def account(aws: FakeAWSKMS, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Account:  # noqa: F811
    made = Account(aws, tmp_path / "credentials")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(made.path))
    made.write("AKIAOLD")
    made.activate("AKIAOLD")
    return made


@pytest.fixture
def connects(aws: FakeAWSKMS, monkeypatch: pytest.MonkeyPatch) -> list[Any]:  # noqa: F811
    """The boto3 clients that were made; what `fail_next` says ends with each."""
    real: Callable[..., Any] = _aws_client._connect
    made: list[Any] = []

    def connect(*args: Any) -> Any:
        made.append(real(*args))
        aws.clear_faults()
        return made[-1]

    monkeypatch.setattr(_aws_client, "_connect", connect)
    return made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def signer(
    account: Account, connects: list[Any], clock: Clock
) -> AsyncIterator[RemoteSigner]:
    uri = f"aws-kms:{account.kms.add_key(ED25519)}"
    opened = await AWSProvider(clock=clock).open_signer(uri)
    clock.now_s += 3600  # it has been open for a while
    yield opened
    await opened.close()


async def test_access_key_that_was_replaced_in_its_file_is_read_when_the_old_one_ends(
    account: Account, signer: RemoteSigner, connects: list[Any]
) -> None:
    """An ordinary rotation of access keys is no outage."""
    account.activate("AKIAOLD", "AKIANEW")
    account.write("AKIANEW")
    await until_signed(signer, MESSAGE)
    assert len(connects) == 1, "the old one still counts"
    account.activate("AKIANEW")
    await asyncio.gather(*(until_signed(signer, MESSAGE) for _ in range(MAX_IN_FLIGHT)))
    assert len(connects) == 2
    await signing.self_test(signer, signer.public_key)


async def test_access_key_that_ended_before_it_was_replaced_is_read_a_second_later(
    account: Account, signer: RemoteSigner, connects: list[Any], clock: Clock
) -> None:
    """And no sooner: appends are tried again and again meanwhile."""
    account.activate("AKIANEW")
    calls = account.kms.calls
    calls.clear()
    for _ in range(5):
        with pytest.raises(KMSPermissionError, match=r"does not accept our credentials.*renew"):
            await refused(signer)
        assert len(connects) == 2, "made anew once"
        assert calls["Sign"] == 0, "refused before anything is done"
        clock.now_s += 0.1
    account.write("AKIANEW")
    with pytest.raises(KMSPermissionError):
        await signer.sign(MESSAGE)
    clock.now_s += 1
    await until_signed(signer, MESSAGE)
    assert len(connects) == 3


async def refused(signer: RemoteSigner) -> None:
    """Sign, and sign again where connecting anew took longer than a signature may."""
    async with asyncio.timeout(30):
        while True:
            try:
                await signer.sign(MESSAGE)
            except KMSUnavailableError:
                await asyncio.sleep(0.02)
            else:
                return


async def test_file_that_is_not_there_for_a_moment_is_read_later(
    account: Account, signer: RemoteSigner, clock: Clock
) -> None:
    account.path.unlink()
    account.activate("AKIANEW")
    with pytest.raises(KMSPermissionError):
        await refused(signer)
    clock.now_s += 1
    with pytest.raises(KMSPermissionError):
        await refused(signer)
    account.write("AKIANEW")
    clock.now_s += 1
    await until_signed(signer, MESSAGE)


@pytest.mark.parametrize("code", ["ExpiredTokenException", "InvalidSignatureException"])
async def test_other_words_for_refused_credentials_are_known(
    account: Account, signer: RemoteSigner, connects: list[Any], code: str
) -> None:
    account.kms.fail_next("error", 10_000, code, 400)
    await until_signed(signer, MESSAGE)
    assert len(connects) == 2


async def test_identity_that_was_replaced_in_the_file_is_read_when_the_old_one_is_denied(
    account: Account, signer: RemoteSigner, connects: list[Any]
) -> None:
    """Its access key goes on: it may do other things."""
    account.kms.denied_keys = {"AKIAOLD"}
    account.activate("AKIAOLD", "AKIANEW")
    account.write("AKIANEW")
    await until_signed(signer, MESSAGE)
    assert len(connects) == 2


async def test_key_that_we_may_not_use_has_credentials_read_once_a_minute(
    account: Account, signer: RemoteSigner, connects: list[Any], clock: Clock
) -> None:
    """Seldom is it a matter of credentials, and appends are tried again and again meanwhile."""
    account.kms.denied = {"Sign"}
    for made in (2, 3):
        for _ in range(3):
            with pytest.raises(KMSPermissionError, match="allow kms:Sign"):
                await refused(signer)
            assert len(connects) == made
            clock.now_s += 10
        clock.now_s += 30
    # Credentials that are refused do not wait so long.
    account.activate("AKIANEW")
    account.write("AKIANEW")
    account.kms.denied = set()
    await until_signed(signer, MESSAGE)
    assert len(connects) == 4


# --- Cloud KMS ---


class Google:
    """Cloud KMS, and what our service knows of its credentials: `renewed` says they are good."""

    def __init__(self, kms: Any, signer: RemoteSigner) -> None:
        self.kms = kms
        self.signer = signer
        self.renewed = False
        self.connects = 0


@pytest.fixture
async def google(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> AsyncIterator[Google]:
    pytest.importorskip("google.cloud.kms_v1", reason="needs google-cloud-kms")
    from provledger.kms import _gcp_client, gcp
    from tests.support.fake_gcp_kms import FakeGCPKMS

    with FakeGCPKMS() as kms:
        monkeypatch.setenv("PROVLEDGER_GCP_KMS_ENDPOINT", kms.endpoint)
        provider = gcp.GCPProvider(clock=clock)
        signer = await provider.open_signer(f"gcp-kms:{kms.add_key('EC_SIGN_ED25519')}")
        made, real = Google(kms, signer), _gcp_client.connect

        async def connect(uri: str) -> Any:
            made.connects += 1
            if made.renewed:
                kms.unauthenticated = False
            return await real(uri)

        monkeypatch.setattr("provledger.kms.gcp.connect", connect)
        clock.now_s += 3600
        yield made
        await signer.close()


async def test_google_credentials_that_were_replaced_are_read(google: Google, clock: Clock) -> None:
    google.kms.unauthenticated = True
    for _ in range(3):
        with pytest.raises(KMSPermissionError, match="does not accept our credentials; renew"):
            await refused(google.signer)
        assert google.connects == 1
    google.renewed = True
    clock.now_s += 1
    await asyncio.gather(*(until_signed(google.signer, MESSAGE) for _ in range(MAX_IN_FLIGHT)))
    assert google.connects == 2


async def test_google_credentials_are_read_once_a_minute_where_they_are_denied(
    google: Google, clock: Clock
) -> None:
    google.kms.denied = {"AsymmetricSign"}
    for made in (1, 2):
        for _ in range(3):
            with pytest.raises(KMSPermissionError, match="not allowed to call AsymmetricSign"):
                await refused(google.signer)
            assert google.connects == made
            clock.now_s += 10
        clock.now_s += 30


async def test_call_on_its_way_is_not_cut_off_by_new_credentials(google: Google) -> None:
    """It would look as if its caller had given up."""
    google.kms.fail_next("hang", 1)
    waiting = asyncio.create_task(google.signer.sign(MESSAGE))
    async with asyncio.timeout(30):
        while not google.kms.calls["AsymmetricSign"]:  # noqa: ASYNC110 - counted in a thread
            await asyncio.sleep(0.01)
    google.kms.unauthenticated = google.renewed = True
    await until_signed(google.signer, MESSAGE)
    assert google.connects == 1
    with contextlib.suppress(KMSUnavailableError):  # nothing is left of its time, perhaps
        await waiting


async def failed_exchange() -> Exception:
    """What the client raises where google-auth is given no access token for a deleted key."""
    import google.auth.exceptions
    from google.api_core import gapic_v1

    class Plugin(grpc.AuthMetadataPlugin):
        def __call__(self, context: Any, callback: Any) -> None:
            raise google.auth.exceptions.RefreshError("invalid_grant: Invalid JWT Signature.")

    server = grpc.aio.server()
    port = server.add_secure_port("127.0.0.1:0", grpc.local_server_credentials())
    await server.start()
    credentials = grpc.composite_channel_credentials(
        grpc.local_channel_credentials(), grpc.metadata_call_credentials(Plugin())
    )
    try:
        async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials) as channel:
            call = gapic_v1.method_async.wrap_method(channel.unary_unary("/a/b"))
            await call(b"", retry=None, timeout=30)
    except Exception as error:
        return error
    finally:
        await server.stop(None)
    raise AssertionError("it was not refused")


async def test_google_key_file_whose_key_was_deleted_is_read_again(
    google: Google, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exchange for an access token fails then, as UNAVAILABLE, and did so for ever."""
    from provledger.kms import gcp

    failure, real, failed = await failed_exchange(), gcp._run, []

    async def run(client: Any, *args: Any) -> Any:
        if not google.connects:
            failed.append(client)
            raise failure
        return await real(client, *args)

    monkeypatch.setattr(gcp, "_run", run)
    await until_signed(google.signer, MESSAGE)
    assert (google.connects, len(failed)) == (1, 1)


async def test_google_exchange_that_fails_says_so(google: Google) -> None:
    from provledger.kms._gcp_client import translate

    error = translate(await failed_exchange(), google.signer.uri, "AsymmetricSign")
    assert isinstance(error, KMSUnavailableError)
    assert "no access token to call AsymmetricSign with" in str(error)
    assert "Invalid JWT Signature" in str(error)
