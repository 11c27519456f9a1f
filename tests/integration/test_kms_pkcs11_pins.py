"""PINs that a token refuses: what is never tried again, and what is after a while."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from provledger.jwk import Algorithm
from provledger.kms import _pkcs11_module, _pkcs11_pin
from provledger.kms._pkcs11_uri import MODULES_ENV
from provledger.kms.errors import KMSPermissionError
from provledger.kms.pkcs11 import PKCS11Provider
from provledger.kms.signing import self_test
from tests.support import softhsm
from tests.support.softhsm import Faults, SoftHSM

pytestmark = [
    pytest.mark.skipif(bool(softhsm.missing()), reason=softhsm.missing()),
    pytest.mark.skipif(bool(softhsm.missing_compiler()), reason=softhsm.missing_compiler()),
]


@pytest.fixture
def provider(tmp_path: Path) -> PKCS11Provider:
    return PKCS11Provider(tmp_path)


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[SoftHSM, Faults]]:
    with softhsm.faulty() as (hsm, faults):
        monkeypatch.setenv(MODULES_ENV, str(hsm.module))
        yield hsm, faults


def initialise_every(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """How soon the library may be initialised anew, without which it sees no token made since."""
    monkeypatch.setattr(_pkcs11_module, "_REINITIALIZE_S", seconds)
    monkeypatch.setattr(_pkcs11_module, "_REINITIALIZE_SHARED_S", seconds)


async def made_key(hsm: SoftHSM, provider: PKCS11Provider, pin_file: Path) -> str:
    """Make a token and a key in it, logged out again; `pin_file` gets the PIN."""
    token = f"pins-{secrets.token_hex(4)}"
    hsm.make_token(token)
    pin_file.touch(0o600)
    pin_file.write_text(softhsm.PIN)
    uri = hsm.uri(token, "key", pin_file=pin_file)
    await provider.create_key(uri, Algorithm.ECDSA_P256)
    async with asyncio.timeout(10):
        while hsm.open_sessions():  # noqa: ASYNC110 - told by no event
            await asyncio.sleep(0.01)
    return uri


async def opens_and_signs(provider: PKCS11Provider, uri: str) -> None:
    signer = await provider.open_signer(uri)
    await self_test(signer, signer.public_key)
    await signer.close()


async def test_wrong_pin_is_tried_once_and_never_again(
    faulty: tuple[SoftHSM, Faults], provider: PKCS11Provider, tmp_path: Path
) -> None:
    hsm, faults = faulty
    pin_file = tmp_path / "pin"
    uri = await made_key(hsm, provider, pin_file)
    pin_file.write_text("wrong-pin")
    before = faults.calls(softhsm.LOGIN)
    with pytest.raises(KMSPermissionError, match="refused the PIN"):
        await provider.open_signer(uri)
    for _ in range(3):
        with pytest.raises(KMSPermissionError, match="not tried again"):
            await provider.open_signer(uri)
    assert faults.calls(softhsm.LOGIN) - before == 1
    pin_file.write_text(softhsm.PIN)
    await opens_and_signs(provider, uri)


@pytest.mark.parametrize(
    ("result", "remedy"),
    [
        (softhsm.CKR_PIN_EXPIRED, "expired .*set a new one"),
        (softhsm.CKR_PIN_LOCKED, "locked .*unlock it"),
        (softhsm.CKR_USER_PIN_NOT_INITIALIZED, "no user PIN yet .*set it"),
    ],
)
async def test_pin_that_no_token_called_wrong_is_tried_again_after_a_while(
    faulty: tuple[SoftHSM, Faults],
    provider: PKCS11Provider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    result: int,
    remedy: str,
) -> None:
    hsm, faults = faulty
    now_s = 1000.0
    monkeypatch.setattr(_pkcs11_pin, "_clock_s", lambda: now_s)
    uri = await made_key(hsm, provider, tmp_path / "pin")
    initialise_every(math.inf, monkeypatch)
    faults.fail(softhsm.LOGIN, result)
    with pytest.raises(KMSPermissionError, match=remedy):
        await provider.open_signer(uri)
    asked = faults.calls(softhsm.LOGIN)
    for _ in range(3):
        with pytest.raises(KMSPermissionError, match=remedy):
            await provider.open_signer(uri)
    assert faults.calls(softhsm.LOGIN) == asked
    now_s += _pkcs11_pin.PAUSE_S
    with pytest.raises(KMSPermissionError, match=remedy):
        await provider.open_signer(uri)
    assert faults.calls(softhsm.LOGIN) == asked + 1
    # The operator sets it right; the file holds what it held.
    faults.end()
    now_s += _pkcs11_pin.PAUSE_S
    await opens_and_signs(provider, uri)


async def test_library_is_initialised_anew_to_see_whether_a_pin_was_set(
    faulty: tuple[SoftHSM, Faults],
    provider: PKCS11Provider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SoftHSM2 does not see before what became of a token in another process."""
    hsm, faults = faulty
    uri = await made_key(hsm, provider, tmp_path / "pin")
    initialise_every(0.0, monkeypatch)
    initialised = faults.calls(softhsm.INITIALIZE)
    faults.fail(softhsm.LOGIN, softhsm.CKR_USER_PIN_NOT_INITIALIZED, times=1)
    await opens_and_signs(provider, uri)
    assert faults.calls(softhsm.INITIALIZE) == initialised + 1


async def test_another_pin_is_tried_at_once_where_one_had_expired(
    faulty: tuple[SoftHSM, Faults],
    provider: PKCS11Provider,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hsm, faults = faulty
    monkeypatch.setattr(_pkcs11_pin, "_clock_s", lambda: 1000.0)
    pin_file = tmp_path / "pin"
    uri = await made_key(hsm, provider, pin_file)
    initialise_every(math.inf, monkeypatch)
    pin_file.write_text("the-one-of-before")
    faults.fail(softhsm.LOGIN, softhsm.CKR_PIN_EXPIRED, times=1)
    with pytest.raises(KMSPermissionError, match="expired"):
        await provider.open_signer(uri)
    pin_file.write_text(softhsm.PIN)
    await opens_and_signs(provider, uri)
