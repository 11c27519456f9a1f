"""One PKCS#11 library in this process: loaded once, initialised for threads, re-initialised.

The standard (PKCS#11 v3.1 §5.4) lets a library assume one thread unless C_Initialize is told
otherwise by CKF_OS_LOCKING_OK. python-pkcs11 passes no arguments, and SoftHSM2 then works without
locks. So C_Initialize is called here, with the flag. Logging in and out is, too, for the sake of
the sessions that python-pkcs11 would forget (`Module.log_in`); it does everything else.

A token that was taken out and put back, or a daemon that was restarted, is not seen by every
library before C_Finalize and C_Initialize. That must not happen while another thread is in a call,
hence `Gate`.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from provledger import logs
from provledger.kms.errors import KMSConfigError, KMSUnavailableError
from provledger.kms.remote import load_library, shown

log = logs.get(__name__)

CKR_OK: Final = 0
_CKR_USER_ALREADY_LOGGED_IN: Final = 0x100
_CKR_ALREADY_INITIALIZED: Final = 0x191
_CKR_FUNCTION_NOT_SUPPORTED: Final = 0x54
_CKF_OS_LOCKING_OK: Final = 0x2
# Positions in CK_FUNCTION_LIST, which begins with a version and has no gaps (PKCS#11 v3.1 §3.6).
_FUNCTIONS: Final = 68
_INITIALIZE: Final = 0
_FINALIZE: Final = 1
_GET_SESSION_INFO: Final = 15
_LOGIN: Final = 18
_LOGOUT: Final = 19
_ARGUMENTS: Final[dict[int, tuple[type[Any], ...]]] = {
    _INITIALIZE: (ctypes.c_void_p,),
    _FINALIZE: (ctypes.c_void_p,),
    _GET_SESSION_INFO: (ctypes.c_ulong, ctypes.c_void_p),
    _LOGIN: (ctypes.c_ulong, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong),
    _LOGOUT: (ctypes.c_ulong,),
}
_CKU_USER: Final = 1
# CKS_RO_USER_FUNCTIONS and CKS_RW_USER_FUNCTIONS: the user is logged in (PKCS#11 v3.1 §3.4).
_USER_STATES: Final = frozenset({1, 3})

_REINITIALIZE_S: Final = 0.4
"""At most so often, so that an absent token is looked for and the library is not kept busy."""

_REINITIALIZE_SHARED_S: Final = 15.0
"""The same while other tokens of the library are in use: their sessions end each time."""


class _InitializeArgs(ctypes.Structure):
    """CK_C_INITIALIZE_ARGS."""

    _fields_: Final = [  # type: ignore[misc]
        ("create_mutex", ctypes.c_void_p),
        ("destroy_mutex", ctypes.c_void_p),
        ("lock_mutex", ctypes.c_void_p),
        ("unlock_mutex", ctypes.c_void_p),
        ("flags", ctypes.c_ulong),
        ("reserved", ctypes.c_void_p),
    ]


class _SessionInfo(ctypes.Structure):
    """CK_SESSION_INFO."""

    _fields_: Final = [  # type: ignore[misc]
        ("slot", ctypes.c_ulong),
        ("state", ctypes.c_ulong),
        ("flags", ctypes.c_ulong),
        ("device_error", ctypes.c_ulong),
    ]


class _FunctionList(ctypes.Structure):
    """CK_FUNCTION_LIST."""

    _fields_: Final = [  # type: ignore[misc]
        ("version", ctypes.c_ubyte * 2),
        ("functions", ctypes.c_void_p * _FUNCTIONS),
    ]


class Gate:
    """Many calls at a time, or one re-initialisation and no call."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._calls = 0
        self._closed = False

    @contextmanager
    def call(self) -> Iterator[None]:
        """Hold the library for one call of it."""
        with self._condition:
            while self._closed:
                self._condition.wait()
            self._calls += 1
        try:
            yield
        finally:
            with self._condition:
                self._calls -= 1
                self._condition.notify_all()

    @contextmanager
    def alone(self, timeout_s: float) -> Iterator[bool]:
        """Wait until nobody is in a call, and keep everybody out; False if that took too long."""
        with self._condition:
            free = self._condition.wait_for(
                lambda: not self._closed and self._calls == 0, timeout_s
            )
            self._closed = self._closed or free
        try:
            yield free
        finally:
            if free:
                with self._condition:
                    self._closed = False
                    self._condition.notify_all()


class Module:
    """A PKCS#11 library. Made by `module`, one for each file, and kept for good.

    `epoch` grows with each re-initialisation: sessions of an earlier one are gone.
    """

    def __init__(self, path: Path, uri: str) -> None:
        self.path = path
        self.gate = Gate()
        self.epoch = 0
        # By epoch and slot: logins of an earlier epoch are gone, their users may not know it yet.
        self._users: Counter[tuple[int, int]] = Counter()
        self._logins: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._lock = threading.Lock()
        self._initialised_s = time.monotonic()
        self._functions = _function_list(path)
        self.lib = self._load(uri)

    def reinitialise(self) -> bool:
        """Finalise and initialise again, unless that was just done; whether it was done now."""
        with self._lock:
            shared = self._users.total() > 0
            pause_s = _REINITIALIZE_SHARED_S if shared else _REINITIALIZE_S
            if time.monotonic() - self._initialised_s < pause_s:
                return False
            with self.gate.alone(timeout_s=0.5) as alone:
                if not alone:
                    log.warning("pkcs11.busy", module=str(self.path))
                    return False
                self._call(_FINALIZE, None)
                self._initialise()
                self.epoch += 1
                self._initialised_s = time.monotonic()
        log.info("pkcs11.reinitialised", module=str(self.path))
        return True

    def login(self, slot_id: int) -> threading.Lock:
        """Hold this to log in to the token in a slot, or out, together with `used`.

        The login is the process's, not the session's (PKCS#11 v3.1 §5.6): the last user's way out
        would otherwise end that of one who comes in at this moment.
        """
        with self._lock:
            return self._logins[slot_id]

    def used(self, epoch: int, slot_id: int, difference: int) -> int:
        """Note that somebody uses the token in a slot, or does no longer; how many still do.

        Counted by epoch, since whoever was there before a re-initialisation shares no login with
        those who came after it.
        """
        with self._lock:
            self._users[epoch, slot_id] += difference
            return self._users[epoch, slot_id] or self._users.pop((epoch, slot_id))

    def log_in(self, session: int, pin: str) -> int:
        """Log in, by a session's handle, unless somebody of this process is; return the CKR_ value.

        Not through python-pkcs11, which opens a session to log in with and forgets it if the token
        refuses: each failure would leave one open.
        """
        info = _SessionInfo()
        known = self._call(_GET_SESSION_INFO, session, ctypes.byref(info)) == CKR_OK
        if known and info.state in _USER_STATES:
            return CKR_OK
        data = pin.encode()
        result = self._call(_LOGIN, session, _CKU_USER, data, len(data))
        return CKR_OK if result == _CKR_USER_ALREADY_LOGGED_IN else result

    def log_out(self, session: int) -> None:
        """End the login of all this process's sessions, whoever of them made it."""
        self._call(_LOGOUT, session)

    def _load(self, uri: str) -> Any:
        """Make python-pkcs11's object for this library."""
        binding = load_library("pkcs11._pkcs11", uri, "pkcs11")
        outer = self

        class Library(binding.lib):  # type: ignore[misc, name-defined]
            """As in python-pkcs11, but initialised by us."""

            def initialize(self) -> None:
                outer._initialise()

        try:
            return Library(str(self.path))
        except KMSConfigError:
            raise
        except Exception as error:
            raise KMSConfigError(
                f"{self.path}: cannot be used as a PKCS#11 module ({shown(type(error).__name__)})"
            ) from None

    def _initialise(self) -> None:
        arguments = _InitializeArgs(flags=_CKF_OS_LOCKING_OK)
        result = self._call(_INITIALIZE, ctypes.byref(arguments))
        if result not in (CKR_OK, _CKR_ALREADY_INITIALIZED):
            raise KMSUnavailableError(f"{self.path}: C_Initialize failed (CKR 0x{result:x})")

    def _call(self, index: int, *arguments: Any) -> int:
        address = self._functions[index]
        if not address:
            return _CKR_FUNCTION_NOT_SUPPORTED
        function = ctypes.CFUNCTYPE(ctypes.c_ulong, *_ARGUMENTS[index])(address)
        result: int = function(*arguments)
        return result


_modules: Final[dict[Path, Module]] = {}
_modules_lock: Final = threading.Lock()


def module(path: Path, uri: str) -> Module:
    """Return the library at `path`, loaded and initialised.

    Raises:
        KMSNotInstalledError: python-pkcs11 is missing. KMSConfigError: it is no PKCS#11 library.
        KMSUnavailableError: it does not initialise now.
    """
    with _modules_lock:
        if path not in _modules:
            load_library("pkcs11", uri, "pkcs11")
            _modules[path] = Module(path, uri)
        return _modules[path]


def _function_list(path: Path) -> list[int]:
    """Load the library and return the addresses of its functions."""
    try:
        library = ctypes.CDLL(str(path))
        get = library.C_GetFunctionList
    except (OSError, AttributeError):
        raise KMSConfigError(f"{path}: is not a PKCS#11 module that can be loaded here") from None
    found = ctypes.POINTER(_FunctionList)()
    get.restype = ctypes.c_ulong
    result: int = get(ctypes.byref(found))
    try:
        functions = found.contents.functions
    except ValueError:  # a null pointer
        functions = None
    if result != CKR_OK or functions is None:
        raise KMSConfigError(f"{path}: gives no PKCS#11 functions")
    return [address or 0 for address in functions]
