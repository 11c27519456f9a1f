"""What PKCS#11 keys leave behind in a token and in this process: no session, login or thread."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provledger.jwk import Algorithm
from provledger.kms._pkcs11_module import module
from provledger.kms._pkcs11_uri import MODULES_ENV
from provledger.kms.pkcs11 import PKCS11Provider
from tests.support import softhsm
from tests.support.softhsm import Faults, SoftHSM

pytestmark = [
    pytest.mark.skipif(bool(softhsm.missing()), reason=softhsm.missing()),
    pytest.mark.skipif(bool(softhsm.missing_compiler()), reason=softhsm.missing_compiler()),
]

MESSAGE = b"what is signed"
THREADS_OF_A_TOKEN = 4
SESSIONS_OF_A_TOKEN = THREADS_OF_A_TOKEN + 1


@pytest.fixture
def provider(tmp_path: Path) -> PKCS11Provider:
    return PKCS11Provider(tmp_path)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SoftHSM, Faults]]:
    with softhsm.faulty() as (hsm, faults):
        monkeypatch.setenv(MODULES_ENV, str(hsm.module))
        yield hsm, faults


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - told by no event
            await asyncio.sleep(0.01)


def name(kind: str) -> str:
    return f"{kind}-{secrets.token_hex(4)}"


def two_names(hsm: SoftHSM, token: str) -> tuple[str, str]:
    """Two keys whose URIs name the same token in two ways, as two people may write them."""
    other = hsm.uri(token, name("key")).replace(";object", ";model=SoftHSM%20v2;object")
    return hsm.uri(token, name("key")), other


async def two_keys(hsm: SoftHSM, provider: PKCS11Provider) -> tuple[str, str, str]:
    """Make a token with two keys, all closed again; return the token's name and the keys' URIs."""
    token = name("sessions")
    hsm.make_token(token)
    first, second = two_names(hsm, token)
    for uri in (first, second):
        await provider.create_key(uri, Algorithm.ECDSA_P256)
    await until(lambda: hsm.open_sessions() == 0)
    return token, first, second


def logged_in(hsm: SoftHSM, token: str) -> bool:
    """Whether a session that never saw a PIN is shown private keys."""
    from pkcs11 import Attribute, ObjectClass

    session = module(hsm.module, "pkcs11:").lib.get_token(token_label=token).open()
    try:
        return bool(list(session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})))
    finally:
        session.close()


# --- sessions and the login ----------------------------------------------------------------------


async def test_token_under_two_names_leaves_no_session_behind(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, faults = faulty
    token, *uris = await two_keys(hsm, provider)
    signers = [await provider.open_signer(uri) for uri in uris]
    for _ in range(8):
        for signer in signers:
            faults.fail(softhsm.SIGN, softhsm.CKR_DEVICE_ERROR, times=1)
            await signer.sign(MESSAGE)
    assert hsm.open_sessions() <= 2 * SESSIONS_OF_A_TOKEN
    for signer in signers:
        await signer.close()
    await until(lambda: hsm.open_sessions() == 0)
    assert not logged_in(hsm, token)


@pytest.mark.parametrize("last", [0, 1])
async def test_login_ends_with_the_last_key_whoever_logged_in(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider, last: int
) -> None:
    hsm, faults = faulty
    token, *uris = await two_keys(hsm, provider)
    logins = faults.calls(softhsm.LOGIN)
    signers = [await provider.open_signer(uri) for uri in uris]
    assert faults.calls(softhsm.LOGIN) == logins + 1, "the second one is logged in already"
    await signers[1 - last].close()
    await until(lambda: hsm.open_sessions() <= SESSIONS_OF_A_TOKEN)
    assert logged_in(hsm, token)
    await signers[last].sign(MESSAGE)
    await signers[last].close()
    await until(lambda: hsm.open_sessions() == 0)
    assert not logged_in(hsm, token)


async def test_login_that_the_device_fails_leaves_no_session_open(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, faults = faulty
    _, uri, _ = await two_keys(hsm, provider)
    # Before and after a re-initialisation, which ends all sessions that were left.
    faults.fail(softhsm.LOGIN, softhsm.CKR_DEVICE_ERROR, times=3)
    signer = await provider.open_signer(uri)
    assert hsm.open_sessions() <= SESSIONS_OF_A_TOKEN
    await signer.close()
    await until(lambda: hsm.open_sessions() == 0)


async def test_login_that_the_token_lost_is_made_again_beside_other_users(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, _ = faulty
    token, *uris = await two_keys(hsm, provider)
    signers = [await provider.open_signer(uri) for uri in uris]
    library = module(hsm.module, "pkcs11:")
    session = library.lib.get_token(token_label=token).open()
    library.log_out(session.handle)
    session.close()
    for signer in signers:
        await signer.sign(MESSAGE)
        await signer.close()
    await until(lambda: hsm.open_sessions() == 0)
    assert not logged_in(hsm, token)
