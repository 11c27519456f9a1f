"""PINs of tokens: read from a file when they are needed, and never tried again once refused.

Tokens lock themselves after a few wrong PINs, and a service that tries again every few seconds gets
there fast. So a refused PIN is remembered for the life of the process; a corrected file is another
PIN and is tried. A token whose PIN is locked, expired or not set has not said that this one is
wrong: once that is mended it may be right as it is, so that it is tried again after a while.

Trust: the PIN file opens the token for whoever has both. It is not kept in memory by us.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import time
from pathlib import Path
from typing import Any, Final

from provledger.kms.errors import KMSConfigError, KMSPermissionError

REFUSALS: Final = {
    0xA0: "PinIncorrect",
    0xA1: "PinInvalid",
    0xA2: "PinLenRange",
}
"""What C_Login answers to a PIN that trying again does not make right (PKCS#11 v3.1 §5.1),
named as by python-pkcs11."""

CKR_PIN_LOCKED: Final = 0xA4

NOT_USABLE: Final = {
    0xA3: "its PIN has expired (PinExpired); set a new one",
    CKR_PIN_LOCKED: "its PIN is locked (PinLocked); unlock it with the SO PIN",
    0x102: "it has no user PIN yet (UserPinNotInitialized); set it with the SO PIN",
}
"""What C_Login answers whatever the PIN, until somebody does something about the token."""

PAUSE_S: Final = 30.0
"""So long after such an answer, nobody logs in with the same PIN, unless the library is initialised
anew, which some need to see what became of a token."""

_MAX_PIN_BYTES: Final = 256
# Salted, so that a dump of the process does not show PINs that were thrown away.
_salt: Final = secrets.token_bytes(16)
_refused: Final[set[bytes]] = set()
# Until when, in which epoch of the library, and what the token answered.
_paused: Final[dict[bytes, tuple[float, int, int]]] = {}
_clock_s = time.monotonic


def was_refused(token: Any, pin: str) -> bool:
    """Whether the token refused this PIN before, in this process."""
    return _attempt(token, pin) in _refused


def remember_refused(token: Any, pin: str) -> None:
    """Never try this PIN on this token again."""
    _refused.add(_attempt(token, pin))


def not_usable(token: Any, pin: str, epoch: int) -> str:
    """What is wrong with the token if it was asked a moment ago; empty if it may be asked again."""
    until_s, asked_epoch, result = _paused.get(_attempt(token, pin), (0.0, epoch, CKR_PIN_LOCKED))
    return NOT_USABLE[result] if epoch == asked_epoch and _clock_s() < until_s else ""


def remember_not_usable(token: Any, pin: str, epoch: int, result: int) -> str:
    """Do not try this PIN on this token for a while; return what is wrong with the token."""
    _paused[_attempt(token, pin)] = (_clock_s() + PAUSE_S, epoch, result)
    return NOT_USABLE[result]


def _attempt(token: Any, pin: str) -> bytes:
    told = "\0".join((token.label, token.serial.hex(), pin))
    return hashlib.sha256(_salt + told.encode("utf-8")).digest()


def read_pin(path: Path) -> str:
    """Read the first line of a PIN file, which must be closed to everybody else.

    Raises KMSConfigError for a file that is missing or holds no PIN, KMSPermissionError for one
    that others can read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            data = file.read(_MAX_PIN_BYTES + 1) if stat.S_ISREG(status.st_mode) else b""
    except FileNotFoundError:
        raise KMSConfigError(f"PIN file {path} does not exist") from None
    except OSError as error:
        raise KMSPermissionError(f"PIN file {path} cannot be read: {error.strerror}") from None
    ours = status.st_uid == os.geteuid()
    if not ours and status.st_uid != 0:
        raise KMSPermissionError(f"PIN file {path} belongs to another user; chown it to ours")
    # As for key files: a mounted secret of root's may be readable by our group.
    if stat.S_IMODE(status.st_mode) & (0o077 if ours else 0o037):
        raise KMSPermissionError(f"PIN file {path} is open to others; run: chmod 600 {path}")
    pin = data.split(b"\n", 1)[0].rstrip(b"\r")
    if not pin or len(data) > _MAX_PIN_BYTES:
        raise KMSConfigError(f"PIN file {path}: must hold the PIN in its first line")
    try:
        return pin.decode("utf-8")
    except UnicodeDecodeError:
        raise KMSConfigError(f"PIN file {path}: is not UTF-8") from None
