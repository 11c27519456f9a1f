"""Real PKCS#11 tokens for the tests: SoftHSM2, in a directory of its own, and one that can fail.

SoftHSM2 finds its tokens through SOFTHSM2_CONF, read when it is initialised: so there is one
directory for a test process, and each test makes a token in it. `faulty` puts a small C library in
front (`pkcs11_shim.c`) that fails, delays or falsifies what a test says.

`scripts/install_test_tools.sh` installs what is needed; without it the tests are skipped.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from urllib.parse import quote

LIBRARIES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
)
PIN = "correct-horse"
SO_PIN = "security-officer"

CKR_GENERAL_ERROR = 0x5
CKR_DEVICE_ERROR = 0x30
CKR_DEVICE_REMOVED = 0x32
CKR_PIN_EXPIRED = 0xA3
CKR_PIN_LOCKED = 0xA4
CKR_SESSION_HANDLE_INVALID = 0xB3
CKR_TOKEN_NOT_PRESENT = 0xE0
CKR_USER_NOT_LOGGED_IN = 0x101
CKR_USER_PIN_NOT_INITIALIZED = 0x102

INITIALIZE, GET_TOKEN_INFO, OPEN_SESSION, LOGIN, LOGOUT, SIGN_INIT, SIGN = 0, 6, 12, 18, 19, 42, 43
GET_SESSION_INFO = 15
FUNCTIONS = (INITIALIZE, GET_TOKEN_INFO, OPEN_SESSION, LOGIN, LOGOUT, SIGN_INIT, SIGN)


def missing() -> str:
    """Why tests with a token cannot run here; empty if they can."""
    if library() is None or shutil.which("softhsm2-util") is None:
        return "SoftHSM2 is not installed (scripts/install_test_tools.sh)"
    try:
        import pkcs11  # noqa: F401
    except ImportError:
        return "python-pkcs11 is not installed (pip install 'provledger[pkcs11]')"
    return ""


def missing_compiler() -> str:
    """Why tests with faults cannot run here; empty if they can."""
    return "" if shutil.which("cc") else "no C compiler (scripts/install_test_tools.sh)"


def library() -> Path | None:
    """The library of SoftHSM2."""
    found = [Path(path) for path in LIBRARIES if os.path.exists(path)]
    return found[0].resolve() if found else None


@dataclass(frozen=True)
class SoftHSM:
    """A directory of tokens, and the module that opens them."""

    path: Path
    module: Path

    @property
    def tokens(self) -> Path:
        """Where the tokens are; moving it away is taking them all out."""
        return self.path / "tokens"

    @property
    def pin_file(self) -> Path:
        """Holds the PIN of every token."""
        return self.path / "pin"

    def make_token(self, label: str) -> None:
        """Make a token with the usual PIN."""
        command = ["softhsm2-util", "--init-token", "--free", "--label", label]
        command += ["--pin", PIN, "--so-pin", SO_PIN]
        subprocess.run(command, check=True, capture_output=True, timeout=30)

    def open_sessions(self) -> int:
        """How many sessions this process has open; the module must be initialised."""
        library = ctypes.CDLL(str(self.module))
        functions = ctypes.POINTER(ctypes.c_void_p)()
        library.C_GetFunctionList(ctypes.byref(functions))
        # The version takes the room of the first pointer.
        address = functions[1 + GET_SESSION_INFO]
        info = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong, ctypes.c_void_p)(address or 0)
        told = (ctypes.c_ulong * 4)()
        # SoftHSM2 counts its handles up.
        return sum(info(handle, told) == 0 for handle in range(1, 5000))

    def uri(self, token: str, key: str, *, pin_file: Path | None = None, more: str = "") -> str:
        """A key URI; `more` is put after the object."""
        pin = pin_file or self.pin_file
        return (
            f"pkcs11:token={quote(token, safe='')};object={quote(key, safe='')}{more}"
            f"?module-path={self.module}&pin-source=file:{pin}"
        )


@cache
def directory() -> Path:
    """The one directory of this process, removed when it ends."""
    path = Path(tempfile.mkdtemp(prefix="provledger-hsm-"))
    (path / "tokens").mkdir()
    conf = path / "softhsm2.conf"
    conf.write_text(
        f"directories.tokendir = {path / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )
    os.environ["SOFTHSM2_CONF"] = str(conf)
    pin = path / "pin"
    pin.touch(0o600)
    pin.write_text(f"{PIN}\n")
    _remove_at_exit(path)
    return path


def _remove_at_exit(path: Path) -> None:
    import atexit

    atexit.register(shutil.rmtree, path, ignore_errors=True)


@cache
def plain() -> SoftHSM:
    """SoftHSM2 as it is."""
    found = library()
    assert found is not None
    return SoftHSM(directory(), found)


class Faults:
    """What the C library in front of SoftHSM2 is told."""

    def __init__(self, shim: ctypes.CDLL) -> None:
        self._shim = shim
        shim.shim_fail.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_int]
        shim.shim_flags.restype = ctypes.c_ulong

    def fail(self, function: int, result: int, times: int = -1) -> None:
        """Have a function return a CKR_ value, so many times; for ever by default."""
        self._shim.shim_fail(function, result, times)

    def delay(self, function: int, ms: int) -> None:
        """Have a function take its time; 0 also ends a wait that goes on."""
        self._shim.shim_delay(function, ms)

    def corrupt(self, on: bool) -> None:
        """Flip a bit of each signature."""
        self._shim.shim_corrupt(int(on))

    def calls(self, function: int) -> int:
        """How often a function was called."""
        return int(self._shim.shim_calls(function))

    @property
    def flags(self) -> int:
        """The flags that C_Initialize was given."""
        return int(self._shim.shim_flags())

    def end(self) -> None:
        """No more faults."""
        for function in FUNCTIONS:
            self.fail(function, 0, 0)
            self.delay(function, 0)
        self.corrupt(False)


@contextmanager
def faulty() -> Iterator[tuple[SoftHSM, Faults]]:
    """SoftHSM2 behind the C library, without faults before and after."""
    hsm = SoftHSM(directory(), _shim())
    faults = Faults(ctypes.CDLL(str(hsm.module)))
    faults.end()
    try:
        yield hsm, faults
    finally:
        faults.end()


@cache
def _shim() -> Path:
    """Compile the library in front, once; with a SoftHSM2 of its own behind it."""
    found = library()
    assert found is not None
    real = directory() / "softhsm-behind.so"
    shutil.copyfile(found, real)
    shim = directory() / "shim.so"
    source = Path(__file__).with_name("pkcs11_shim.c")
    command = ["cc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", f'-DSHIM_REAL="{real}"']
    subprocess.run([*command, "-o", shim, source, "-ldl"], check=True, timeout=60)
    return shim
