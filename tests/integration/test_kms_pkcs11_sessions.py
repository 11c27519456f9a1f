"""What PKCS#11 keys leave behind in a token and in this process: no session, login or thread."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from provledger.jwk import Algorithm
from provledger.kms import _pkcs11_token
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


def threads() -> int:
    return sum(thread.name.startswith("pkcs11") for thread in threading.enumerate())


async def nothing_is_left(hsm: SoftHSM, token: str) -> None:
    await until(lambda: not threads() and not hsm.open_sessions())
    assert not _pkcs11_token._tokens
    assert not logged_in(hsm, token)


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


# --- threads of a device that hangs --------------------------------------------------------------


class Attaching:
    """Counts threads that look for their token, or wait for another one that does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.began = self.inside = 0
        self._lock = threading.Lock()
        attach = _pkcs11_token.Token._attach

        def counted(token: _pkcs11_token.Token) -> Any:
            self._note(1)
            try:
                return attach(token)
            finally:
                self._note(-1)

        monkeypatch.setattr(_pkcs11_token.Token, "_attach", counted)

    def _note(self, difference: int) -> None:
        with self._lock:
            self.began += difference > 0
            self.inside += difference

    async def given_up(self, provider: PKCS11Provider, uri: str) -> None:
        """Open a key, and give up once a thread has the call or none is free to take it."""
        began = self.began
        opening = asyncio.create_task(provider.open_signer(uri))
        for _ in range(5):
            await asyncio.sleep(0)  # so far that it asked for a thread
        # One may be on its way out.
        await until(lambda: self.began > began or self.inside >= THREADS_OF_A_TOKEN - 1)
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)


async def test_keys_that_are_closed_leave_no_thread_and_no_login(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, _ = faulty
    token, *uris = await two_keys(hsm, provider)
    await until(lambda: not threads())
    signers = [await provider.open_signer(uri) for uri in uris]
    assert len(_pkcs11_token._tokens) == 2
    await asyncio.gather(*(signer.sign(MESSAGE) for signer in signers for _ in range(8)))
    assert threads() <= 2 * THREADS_OF_A_TOKEN
    for signer in signers:
        await signer.close()
    await nothing_is_left(hsm, token)


class Leaving:
    """Holds threads up that nobody uses any more, before they log out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end, self.ended = (threading.Event() for _ in range(3))
        log_out = _pkcs11_token.Token._log_out

        def held_up(token: _pkcs11_token.Token) -> None:
            self.begun.set()
            self.may_end.wait(10)
            log_out(token)
            self.ended.set()

        monkeypatch.setattr(_pkcs11_token.Token, "_log_out", held_up)


async def test_key_opened_while_the_last_one_leaves_keeps_the_login(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    hsm, faults = faulty
    token, uri, _ = await two_keys(hsm, provider)
    await until(lambda: not threads())
    leaving = Leaving(monkeypatch)
    await (await provider.open_signer(uri)).close()
    await until(leaving.begun.is_set)
    signer = await provider.open_signer(uri)
    logins = faults.calls(softhsm.LOGIN)
    leaving.may_end.set()
    await until(leaving.ended.is_set)
    await asyncio.gather(*(signer.sign(MESSAGE) for _ in range(8)))
    assert faults.calls(softhsm.LOGIN) == logins
    await signer.close()
    await nothing_is_left(hsm, token)


async def test_thread_that_leaves_comes_back_for_a_call_that_has_no_other(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    hsm, _ = faulty
    token, uri, _ = await two_keys(hsm, provider)
    await until(lambda: not threads())
    monkeypatch.setattr(_pkcs11_token, "_THREADS", 1)
    leaving = Leaving(monkeypatch)
    await (await provider.open_signer(uri)).close()
    await until(leaving.begun.is_set)
    opening = asyncio.create_task(provider.open_signer(uri))
    await until(lambda: any(each._jobs for each in _pkcs11_token._tokens.values()))
    leaving.may_end.set()
    await (await opening).close()
    await nothing_is_left(hsm, token)


@pytest.mark.parametrize(
    "function", [softhsm.GET_TOKEN_INFO, softhsm.OPEN_SESSION, softhsm.LOGIN, softhsm.LOGOUT]
)
async def test_device_that_hangs_while_keys_are_opened_costs_four_threads(
    faulty: tuple[SoftHSM, Faults],
    provider: PKCS11Provider,
    monkeypatch: pytest.MonkeyPatch,
    function: int,
) -> None:
    hsm, faults = faulty
    token, uri, _ = await two_keys(hsm, provider)
    await until(lambda: not threads())
    attaching = Attaching(monkeypatch)
    if function == softhsm.LOGOUT:
        signer = await provider.open_signer(uri)
    faults.delay(function, 600_000)
    calls = faults.calls(function)
    if function == softhsm.LOGOUT:
        await signer.close()
    else:
        await attaching.given_up(provider, uri)
    await until(lambda: faults.calls(function) > calls)
    for _ in range(12):
        await attaching.given_up(provider, uri)
    assert threads() <= THREADS_OF_A_TOKEN
    opening = asyncio.create_task(provider.open_signer(uri))
    await asyncio.sleep(0)
    faults.delay(function, 0)
    signer = await opening
    await signer.sign(MESSAGE)
    assert threads() <= THREADS_OF_A_TOKEN
    await signer.close()
    await nothing_is_left(hsm, token)


async def test_key_closed_while_the_device_hangs_is_left_behind_when_it_answers(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider
) -> None:
    hsm, faults = faulty
    token, uri, other = await two_keys(hsm, provider)
    signer = await provider.open_signer(uri)
    faults.delay(softhsm.SIGN, 600_000)
    calls = faults.calls(softhsm.SIGN)
    signing = asyncio.create_task(signer.sign(MESSAGE))
    await until(lambda: faults.calls(softhsm.SIGN) > calls)
    signing.cancel()
    await asyncio.gather(signing, return_exceptions=True)
    await signer.close()
    # The other name of the token has threads of its own.
    await (await provider.open_signer(other)).close()
    assert threads(), "one is with the device still"
    faults.delay(softhsm.SIGN, 0)
    await nothing_is_left(hsm, token)
