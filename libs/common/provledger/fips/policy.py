"""The allow-list of FIPS mode and its error state; always lets everything pass outside of it.

The provider itself is not enough: it signs with P-256 over SHA-1 digests and makes RSA keys of
1024 bits when the caller computes the parts itself, Python's hashlib has MD5 and BLAKE2 of its own,
and the blake3 wheel knows no OpenSSL. So what may be used is decided here:

========================= ========================================================
statements, entries, logs suite `fips`: SHA-256 throughout
field salts               SHAKE256
signatures                ECDSA P-256 over SHA-256, P-384 over SHA-384
checkpoint signatures     also Ed25519, where the loaded provider offers it
key files                 PBES2 with PBKDF2-HMAC-SHA256 and AES-256-CBC
========================= ========================================================

Pure: state is set once by `provledger.fips.boot`, after everything else was asserted, and can only
get worse (`latch`). Imported by the nouns of the library, so it knows no I/O and no event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

from provledger.errors import InputError, UnavailableError

SUITES: Final = frozenset({"fips"})
"""Suites of ledgers and logs that may be used (design §4)."""

_P256: Final = "ecdsa-p256"
_P384: Final = "ecdsa-p384"
_ED25519: Final = "ed25519"
_CHECKPOINT: Final = "checkpoint"


class FIPSRefusedError(InputError):
    """FIPS mode does not allow this suite, primitive, or key; the message names what it does."""


class _Mode:
    """What this process has found out. Guarded by `lock`; reads of one field need none."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.active = False
        self.ed25519_approved = False
        self.falsify_pairwise = False
        self.error = ""
        self.listeners: list[Callable[[], None]] = []


_mode = _Mode()


def activate(*, ed25519_approved: bool, falsify_pairwise: bool = False) -> None:
    """Turn FIPS mode on, for good. Called by `provledger.fips.boot` when all tests have passed.

    `falsify_pairwise` makes the pairwise test of the next key fail, to see what happens then.
    """
    with _mode.lock:
        _mode.ed25519_approved = ed25519_approved
        _mode.falsify_pairwise = falsify_pairwise
        _mode.active = True


def active() -> bool:
    """Whether this process is in FIPS mode."""
    return _mode.active


def ed25519_approved() -> bool:
    """Whether the loaded provider offers Ed25519 as approved; False outside FIPS mode."""
    return _mode.active and _mode.ed25519_approved


def pairwise_falsified() -> bool:
    """Whether pairwise tests are to fail, on request."""
    return _mode.active and _mode.falsify_pairwise


def latch(reason: str) -> None:
    """Enter the error state, which only a new process leaves: a test has failed.

    `reason` says which one. Nothing is signed from now on and `watch` ends the service. Without
    effect outside FIPS mode. Safe from any thread.
    """
    with _mode.lock:
        if not _mode.active or _mode.error:
            return
        _mode.error = reason
        listeners = list(_mode.listeners)
    for listener in listeners:
        listener()


def error() -> str:
    """Which test failed; empty as long as none has."""
    return _mode.error


def on_error(listener: Callable[[], None]) -> None:
    """Have `listener` called when the error state is entered; at once if it was entered before."""
    with _mode.lock:
        if not _mode.error:
            _mode.listeners.append(listener)
            return
    listener()


def check_operational() -> None:
    """Raise UnavailableError (KMS_UNAVAILABLE) once a test has failed; asked before signing."""
    if _mode.error:
        raise UnavailableError(
            "KMS_UNAVAILABLE",
            f"a self-test of FIPS mode failed ({_mode.error}); the service signs nothing and ends",
            retry_delay_s=1.0,
        )


def check_suite(name: str) -> None:
    """Raise FIPSRefusedError for a suite that FIPS mode does not allow."""
    if _mode.active and name not in SUITES:
        raise FIPSRefusedError(f"suite {name} is not allowed in FIPS mode; use the suite fips")


def check_primitive(name: str) -> None:
    """Refuse a primitive that is outside the module altogether, such as BLAKE3."""
    if _mode.active:
        raise FIPSRefusedError(f"{name} is not allowed in FIPS mode; use the suite fips")


def check_signing_key(algorithm: str, purpose: str) -> None:
    """Raise FIPSRefusedError unless a key may sign for this purpose.

    `algorithm` is a `provledger.jwk.Algorithm`, `purpose` a `provledger.keyset.KeyPurpose` (both
    are text).
    """
    # That signed notes know no P-384 is the key set's to say, in FIPS mode or not.
    if not _mode.active or algorithm in (_P256, _P384):
        return
    if algorithm == _ED25519 and purpose == _CHECKPOINT:
        if _mode.ed25519_approved:
            return
        raise FIPSRefusedError(
            "the loaded FIPS provider does not offer Ed25519; give the checkpoint key P-256"
        )
    raise FIPSRefusedError(
        f"a key of type {algorithm} may not sign for purpose {purpose} in FIPS mode; use P-256 "
        "or P-384"
    )


def algorithm_for(purpose: str) -> str:
    """The algorithm to make a key of `purpose` with, as the text of a `jwk.Algorithm`.

    Outside FIPS mode Ed25519 for all. In it P-256, but Ed25519 for checkpoints where the provider
    has it: C2SP cosigners know no other.
    """
    if not _mode.active or (purpose == _CHECKPOINT and _mode.ed25519_approved):
        return _ED25519
    return _P256
