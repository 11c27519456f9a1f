"""PKCS#11 keys in a real token (SoftHSM2), and in one that is taken out, hangs, or lies."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from provledger.errors import KMSError
from provledger.jwk import Algorithm, verify_signature
from provledger.kms._pkcs11_uri import MODULES_ENV
from provledger.kms.errors import (
    KMSConfigError,
    KMSIntegrityError,
    KMSKeyExistsError,
    KMSKeyNotFoundError,
    KMSNotInstalledError,
    KMSPermissionError,
    KMSUnavailableError,
)
from provledger.kms.pkcs11 import PKCS11Provider
from provledger.kms.remote import RemoteSigner, Wanted
from provledger.kms.signing import self_test
from tests.support import softhsm
from tests.support.softhsm import Faults, SoftHSM

pytestmark = pytest.mark.skipif(bool(softhsm.missing()), reason=softhsm.missing())

MESSAGE = b"what is signed"
THREADS_OF_A_TOKEN = 4
TOKEN = f"plain-{secrets.token_hex(4)}"
FAULTY_TOKEN = f"faulty-{secrets.token_hex(4)}"


@pytest.fixture(scope="module")
def hsm() -> SoftHSM:
    hsm = softhsm.plain()
    hsm.make_token(TOKEN)
    return hsm


@pytest.fixture
def provider(tmp_path: Path) -> PKCS11Provider:
    return PKCS11Provider(tmp_path)


@pytest.fixture(scope="module")
def faulty_hsm() -> Iterator[tuple[SoftHSM, Faults]]:
    if softhsm.missing_compiler():
        pytest.skip(softhsm.missing_compiler())
    with softhsm.faulty() as (hsm, faults):
        hsm.make_token(FAULTY_TOKEN)
        yield hsm, faults


@pytest.fixture
def faulty(
    faulty_hsm: tuple[SoftHSM, Faults], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[SoftHSM, Faults]]:
    hsm, faults = faulty_hsm
    monkeypatch.setenv(MODULES_ENV, str(hsm.module))
    yield hsm, faults
    faults.end()


@contextlib.asynccontextmanager
async def opened(provider: PKCS11Provider, uri: str) -> AsyncIterator[RemoteSigner]:
    signer = await provider.open_signer(uri)
    try:
        yield signer
    finally:
        await signer.close()


def name() -> str:
    return f"key-{secrets.token_hex(4)}"


def in_session(hsm: SoftHSM, token: str, work: Any) -> Any:
    """Do something to the token behind the adapter's back."""
    from provledger.kms._pkcs11_module import module

    with module(hsm.module, "pkcs11:").gate.call():
        lib = module(hsm.module, "pkcs11:").lib
        session = lib.get_token(token_label=token).open(rw=True)
        try:
            return work(session)
        finally:
            session.close()


# --- signing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", sorted(PKCS11Provider(Path()).capabilities.algorithms))
async def test_created_key_is_opened_and_signs(
    hsm: SoftHSM, provider: PKCS11Provider, algorithm: Algorithm
) -> None:
    uri = hsm.uri(TOKEN, name())
    public_key = await provider.create_key(uri, algorithm)
    async with opened(provider, uri) as signer:
        assert (signer.algorithm, signer.uri) == (algorithm, uri)
        assert signer.public_key == public_key
        signature = await signer.sign(MESSAGE)
        verify_signature(public_key, signature, MESSAGE)
        await self_test(signer, public_key)
        assert len(signature) == 64 or signature[0] == 0x30, "64 bytes, or DER"


async def test_relative_pin_file_begins_in_the_key_directory(hsm: SoftHSM, tmp_path: Path) -> None:
    shutil.copy(hsm.pin_file, tmp_path / "token.pin")
    provider = PKCS11Provider(tmp_path)
    uri = hsm.uri(TOKEN, name(), pin_file=Path("token.pin"))
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    async with opened(provider, uri) as signer:
        await self_test(signer, signer.public_key)


async def test_key_is_found_by_id_alone(hsm: SoftHSM, provider: PKCS11Provider) -> None:
    label, key_id = name(), secrets.token_bytes(6)
    quoted = "".join(f"%{byte:02x}" for byte in key_id)
    full = hsm.uri(TOKEN, label, more=f";id={quoted}")
    public_key = await provider.create_key(full, Algorithm.ECDSA_P256)
    by_id = full.replace(f"object={label};", "")
    async with opened(provider, by_id) as signer:
        assert signer.public_key == public_key


async def test_many_at_once_all_verify(hsm: SoftHSM, provider: PKCS11Provider) -> None:
    uri = hsm.uri(TOKEN, name())
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    async with opened(provider, uri) as signer:
        messages = [f"message {number}".encode() for number in range(64)]
        signatures = await asyncio.gather(*map(signer.sign, messages))
        for message, signature in zip(messages, signatures, strict=True):
            verify_signature(signer.public_key, signature, message)


async def test_closing_one_key_leaves_the_others_of_its_token_logged_in(
    hsm: SoftHSM, provider: PKCS11Provider
) -> None:
    first, second = hsm.uri(TOKEN, name()), hsm.uri(TOKEN, name())
    for uri in (first, second):
        await provider.create_key(uri, Algorithm.ECDSA_P256)
    async with opened(provider, first) as signer:
        async with opened(provider, second) as other:
            await other.sign(MESSAGE)
        for _ in range(8):
            verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)


async def test_closed_signer_does_not_sign(hsm: SoftHSM, provider: PKCS11Provider) -> None:
    uri = hsm.uri(TOKEN, name())
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    signer = await provider.open_signer(uri)
    await signer.close()
    with pytest.raises(KMSUnavailableError, match="closed"):
        await signer.sign(MESSAGE)


async def test_key_for_a_rotation_is_made_in_the_same_token(
    hsm: SoftHSM, provider: PKCS11Provider
) -> None:
    uri, wanted = hsm.uri(TOKEN, name(), more=";id=%05%06"), Wanted(name(), b"\x01" * 16)
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    created = await provider.create_beside(uri, Algorithm.ECDSA_P256, wanted)
    assert created.uri == hsm.uri(TOKEN, wanted.kid, more=f";id={'%01' * 16}")
    async with opened(provider, created.uri) as signer:
        assert signer.public_key == created.public_key
        await self_test(signer, created.public_key)
    # Tried again, it is found; what another ceremony made under that name is not taken.
    again = await provider.create_beside(uri, Algorithm.ECDSA_P256, wanted)
    assert (again.uri, again.public_key, again.found) == (created.uri, created.public_key, True)
    with pytest.raises(KMSKeyExistsError):
        await provider.create_beside(uri, Algorithm.ECDSA_P256, Wanted(wanted.kid, b"\x02" * 16))


# --- what cannot be opened -----------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [Algorithm.ML_DSA_44, Algorithm.ML_DSA_65])
async def test_key_of_a_kind_that_tokens_do_not_have_is_not_made(
    hsm: SoftHSM, provider: PKCS11Provider, algorithm: Algorithm
) -> None:
    with pytest.raises(KMSConfigError, match=f"{algorithm} is not used in PKCS#11"):
        await provider.create_key(hsm.uri(TOKEN, name()), algorithm)


async def test_existing_key_is_never_replaced(hsm: SoftHSM, provider: PKCS11Provider) -> None:
    uri = hsm.uri(TOKEN, name(), more=";id=%01%02%03")
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    with pytest.raises(KMSKeyExistsError, match="this object"):
        await provider.create_key(uri.replace(";id=%01%02%03", ""), Algorithm.ECDSA_P256)
    with pytest.raises(KMSKeyExistsError, match="this id"):
        await provider.create_key(hsm.uri(TOKEN, name(), more=";id=%01%02%03"), Algorithm.ED25519)


async def test_missing_key_is_named(hsm: SoftHSM, provider: PKCS11Provider) -> None:
    uri = hsm.uri(TOKEN, "not-there")
    with pytest.raises(KMSKeyNotFoundError, match="not-there"):
        await provider.open_signer(uri)


async def test_two_keys_of_one_name_are_not_chosen_from(
    hsm: SoftHSM, provider: PKCS11Provider
) -> None:
    label = name()
    for key_id in ("%01", "%02"):
        other = name()
        await provider.create_key(
            hsm.uri(TOKEN, other, more=f";id={key_id}{other[-2:].encode().hex()}"),
            Algorithm.ECDSA_P256,
        )

        def rename(session: Any, other: str = other) -> None:
            import pkcs11

            for found in list(session.get_objects({pkcs11.Attribute.LABEL: other})):
                found[pkcs11.Attribute.LABEL] = label

        async with opened(provider, hsm.uri(TOKEN, other)):
            in_session(hsm, TOKEN, rename)
    with pytest.raises(KMSConfigError, match="2 private keys; add id="):
        await provider.open_signer(hsm.uri(TOKEN, label))


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no-sign", "may not sign"),
        ("p521", "another curve"),
        ("rsa", "no elliptic curve key"),
        ("no-public", "holds no public key"),
    ],
)
async def test_key_of_another_kind_is_refused_when_opened(
    hsm: SoftHSM, provider: PKCS11Provider, kind: str, message: str
) -> None:
    label, helper = name(), name()
    helper_uri = hsm.uri(TOKEN, helper)
    await provider.create_key(helper_uri, Algorithm.ECDSA_P256)

    def make(session: Any) -> None:
        from pkcs11 import Attribute, KeyType, ObjectClass
        from pkcs11.util.ec import encode_named_curve_parameters

        if kind == "rsa":
            session.generate_keypair(KeyType.RSA, 2048, store=True, label=label)
            return
        curve = "secp521r1" if kind == "p521" else "secp256r1"
        key_id = secrets.token_bytes(4)
        params = {Attribute.EC_PARAMS: encode_named_curve_parameters(curve)}
        domain = session.create_domain_parameters(KeyType.EC, params, local=True)
        template = {Attribute.SIGN: False} if kind == "no-sign" else {}
        domain.generate_keypair(store=True, label=label, id=key_id, private_template=template)
        if kind == "no-public":
            wanted = {Attribute.CLASS: ObjectClass.PUBLIC_KEY, Attribute.LABEL: label}
            for found in list(session.get_objects(wanted)):
                found.destroy()

    async with opened(provider, helper_uri):  # logged in meanwhile
        in_session(hsm, TOKEN, make)
    with pytest.raises(KMSConfigError, match=message):
        await provider.open_signer(hsm.uri(TOKEN, label))


async def test_missing_token_is_unavailable_and_says_which_are_there(
    hsm: SoftHSM, provider: PKCS11Provider
) -> None:
    with pytest.raises(KMSUnavailableError, match=f"'elsewhere' is not there .*{TOKEN}"):
        await provider.open_signer(hsm.uri("elsewhere", "key"))


async def test_pin_file_is_checked_like_a_key_file(
    hsm: SoftHSM, provider: PKCS11Provider, tmp_path: Path
) -> None:
    pin_file = tmp_path / "pin"
    uri = hsm.uri(TOKEN, "key", pin_file=pin_file)
    with pytest.raises(KMSConfigError, match="does not exist"):
        await provider.open_signer(uri)
    pin_file.write_text(softhsm.PIN)
    pin_file.chmod(0o644)
    with pytest.raises(KMSPermissionError, match="chmod 600"):
        await provider.open_signer(uri)
    pin_file.chmod(0o600)
    pin_file.write_text("\n")
    with pytest.raises(KMSConfigError, match="first line"):
        await provider.open_signer(uri)
    without = uri.partition("&pin-source")[0]
    with pytest.raises(KMSConfigError, match="needs a PIN"):
        await provider.open_signer(without)


async def test_module_outside_the_system_is_refused_until_it_is_listed(
    hsm: SoftHSM, provider: PKCS11Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "module.so"
    module.write_bytes(b"not a library")
    uri = hsm.uri(TOKEN, "key").replace(str(hsm.module), str(module))
    with pytest.raises(KMSPermissionError, match=MODULES_ENV):
        await provider.open_signer(uri)
    monkeypatch.setenv(MODULES_ENV, f"/usr/lib/other.so:{module}")
    with pytest.raises(KMSConfigError, match="not a PKCS#11 module"):
        await provider.open_signer(uri)
    with pytest.raises(KMSConfigError, match="there is no"):
        await provider.open_signer(uri.replace("module.so", "missing.so"))


async def test_without_the_extra_the_error_says_which_to_install(
    hsm: SoftHSM, provider: PKCS11Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(KMSNotInstalledError, match=r"provledger\[pkcs11\]"):
        await provider.open_signer(hsm.uri(TOKEN, "key"))


# --- a token that is taken out -------------------------------------------------------------------


async def test_token_taken_out_and_put_back_signs_again(
    hsm: SoftHSM, provider: PKCS11Provider
) -> None:
    uri = hsm.uri(TOKEN, name())
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    async with opened(provider, uri) as signer:
        await signer.sign(MESSAGE)
        away = hsm.tokens.with_name("away")
        hsm.tokens.rename(away)
        hsm.tokens.mkdir()
        try:
            started_s = time.monotonic()
            with pytest.raises(KMSUnavailableError):
                await signer.sign(MESSAGE)
            assert time.monotonic() - started_s < 5, "told within its patience"
        finally:
            hsm.tokens.rmdir()
            away.rename(hsm.tokens)
        signature = await eventually(signer, MESSAGE)
        verify_signature(signer.public_key, signature, MESSAGE)


async def eventually(signer: RemoteSigner, message: bytes) -> bytes:
    """Sign, trying for a while: the outage gate turns the first callers away."""
    deadline_s = time.monotonic() + 20
    while True:
        try:
            return await signer.sign(message)
        except KMSUnavailableError:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("function", [softhsm.SIGN_INIT, softhsm.SIGN])
@pytest.mark.parametrize(
    "result",
    [
        softhsm.CKR_DEVICE_REMOVED,
        softhsm.CKR_SESSION_HANDLE_INVALID,
        softhsm.CKR_TOKEN_NOT_PRESENT,
        softhsm.CKR_USER_NOT_LOGGED_IN,
        softhsm.CKR_GENERAL_ERROR,
    ],
)
async def test_lost_session_is_opened_again_unnoticed(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider, function: int, result: int
) -> None:
    hsm, faults = faulty
    uri = hsm.uri(FAULTY_TOKEN, name())
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    async with opened(provider, uri) as signer:
        sessions = faults.calls(softhsm.OPEN_SESSION)
        faults.fail(function, result, times=1)
        verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)
        assert faults.calls(softhsm.OPEN_SESSION) > sessions


async def test_token_that_stays_away_is_unavailable_and_tried_a_bounded_number_of_times(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, faults = faulty
    uri = hsm.uri(FAULTY_TOKEN, name())
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    async with opened(provider, uri) as signer:
        for function in (softhsm.SIGN_INIT, softhsm.OPEN_SESSION, softhsm.GET_TOKEN_INFO):
            faults.fail(function, softhsm.CKR_TOKEN_NOT_PRESENT)
        before = faults.calls(softhsm.INITIALIZE), faults.calls(softhsm.LOGIN)
        with pytest.raises(KMSUnavailableError):
            await signer.sign(MESSAGE)
        assert faults.calls(softhsm.INITIALIZE) - before[0] <= 6
        assert faults.calls(softhsm.LOGIN) - before[1] <= 12
        faults.end()
        verify_signature(signer.public_key, await eventually(signer, MESSAGE), MESSAGE)


async def test_logging_out_does_not_end_the_login_of_who_comes_next(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, faults = faulty
    # The first one's way out goes on while the second one logs in, and ends before it is used.
    faults.delay(softhsm.LOGOUT, 30)
    faults.delay(softhsm.OPEN_SESSION, 20)
    for _ in range(3):
        await provider.create_key(hsm.uri(FAULTY_TOKEN, name()), Algorithm.ECDSA_P256)


async def test_another_key_under_the_same_name_is_an_integrity_error(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, faults = faulty
    label, other = name(), name()
    uri = hsm.uri(FAULTY_TOKEN, label)
    for each in (label, other):
        await provider.create_key(hsm.uri(FAULTY_TOKEN, each), Algorithm.ECDSA_P256)

    away = name()

    def rename(session: Any, *names: tuple[str, str]) -> None:
        import pkcs11

        for old, new in names:
            for found in list(session.get_objects({pkcs11.Attribute.LABEL: old})):
                found[pkcs11.Attribute.LABEL] = new

    async with opened(provider, uri) as signer:
        in_session(hsm, FAULTY_TOKEN, lambda at: rename(at, (label, away), (other, label)))
        faults.fail(softhsm.SIGN, softhsm.CKR_DEVICE_REMOVED, times=1)
        for _ in range(2 * THREADS_OF_A_TOKEN):
            with pytest.raises(KMSIntegrityError, match="another key"):
                await signer.sign(MESSAGE)
        in_session(hsm, FAULTY_TOKEN, lambda at: rename(at, (label, other), (away, label)))
        for _ in range(2 * THREADS_OF_A_TOKEN):
            verify_signature(signer.public_key, await signer.sign(MESSAGE), MESSAGE)


# --- a token that hangs, lies, or counts ---------------------------------------------------------


async def test_library_is_told_that_there_are_threads(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, faults = faulty
    await provider.create_key(hsm.uri(FAULTY_TOKEN, name()), Algorithm.ECDSA_P256)
    assert faults.flags == 0x2, "CKF_OS_LOCKING_OK"


async def test_hanging_token_costs_the_deadline_and_not_the_event_loop(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, faults = faulty
    uri = hsm.uri(FAULTY_TOKEN, name())
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    async with opened(provider, uri) as signer:
        faults.delay(softhsm.SIGN, 60_000)
        started_s, turns = time.monotonic(), 0
        signing = asyncio.ensure_future(signer.sign(MESSAGE))
        while not signing.done():
            await asyncio.sleep(0.01)
            turns += 1
        with pytest.raises(KMSError):
            await signing
        assert time.monotonic() - started_s < 10
        assert turns > 20, "the event loop went on"
        faults.delay(softhsm.SIGN, 0)
        verify_signature(signer.public_key, await eventually(signer, MESSAGE), MESSAGE)


async def test_wrong_signature_is_an_integrity_error(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, faults = faulty
    uri = hsm.uri(FAULTY_TOKEN, name())
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    async with opened(provider, uri) as signer:
        faults.corrupt(True)
        with pytest.raises(KMSIntegrityError, match="does not verify"):
            await self_test(signer, signer.public_key)
