"""One token in use: logged in once, a session for each of a few threads, attached again when lost.

A PKCS#11 call blocks its thread, for as long as the device likes, and cannot be cancelled. So calls
run in daemon threads of our own, each with a session; whoever waits has a deadline (`kms.remote`),
and a hung device costs threads, never the event loop and never the end of the process. They are
four for each token, and stay so: a token whose last key is closed is kept until its threads are
back, since the next one to be opened would otherwise bring four more for the device to hold.

When a call fails in a way that a token taken out and put back would explain, the token is detached:
the next call finds it, logs in and opens its session anew, re-initialising the library if that does
not help. How often that is tried is up to the caller's patience.

A wrong PIN is never tried twice (`kms._pkcs11_pin`), and a token that says that its next failure
locks it is left alone. One whose PIN is locked, expired or not set is asked again after a while.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from provledger import logs
from provledger.errors import KMSError
from provledger.kms._pkcs11_module import CKR_OK, Module, module
from provledger.kms._pkcs11_pin import (
    CKR_PIN_LOCKED,
    NOT_USABLE,
    PAUSE_S,
    REFUSALS,
    not_usable,
    read_pin,
    remember_not_usable,
    remember_refused,
    was_refused,
)
from provledger.kms._pkcs11_uri import PKCS11URI, allowed_module
from provledger.kms.errors import (
    KMSConfigError,
    KMSKeyNotFoundError,
    KMSPermissionError,
    KMSUnavailableError,
)

T = TypeVar("T")

log = logs.get(__name__)

_THREADS: Final = 4
_MAX_WAITING: Final = 32

# How python-pkcs11 calls the PKCS#11 v3.1 §5.1 return values that mean this.
_CONFIG_ERRORS: Final = frozenset(
    {"MechanismInvalid", "MechanismParamInvalid", "KeyTypeInconsistent", "FunctionNotSupported"}
    | {"TokenWriteProtected", "SessionReadOnly", "DomainParamsInvalid", "KeySizeRange"}
    | {"TemplateIncomplete", "TemplateInconsistent", "AttributeTypeInvalid"}
    | {"AttributeValueInvalid", "AttributeReadOnly", "AttributeSensitive", "ArgumentsBad"}
)


class KeyMissingError(KMSKeyNotFoundError):
    """The token is there and does not hold the key, or not any more."""


class PINNotUsableError(KMSPermissionError):
    """The token answers that nobody can log in, as far as the library knows."""


@dataclass(slots=True)
class Seat:
    """What one thread works with: its session, and the keys it found there.

    `epoch` is that of the module when the session was opened; `keys` are by URI and public key,
    since the key that has a name may become another one.
    """

    session: Any
    epoch: int = 0
    keys: dict[tuple[str, bytes], Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Attachment:
    """A token that was found and logged in to; `number` tells sessions of earlier ones."""

    number: int
    epoch: int
    token: Any
    session: Any


class Token:
    """A token named by URI, shared by all its keys in this process. See `shared_token`."""

    def __init__(self, uri: PKCS11URI) -> None:
        self._uri = uri
        self._module: Module | None = None
        self._attachment: _Attachment | None = None
        self._attachments = 0
        self._failures = 0
        # For what is above. Held during calls to the module, so only our threads wait for it.
        self._lock = threading.Lock()
        # For what is below. Never held during a call to the module.
        self._work = threading.Condition()
        self._jobs: deque[tuple[Future[Any], Callable[[Seat], Any]]] = deque()
        self._users = 0
        self._threads = 0

    async def call(self, work: Callable[[Seat], T]) -> T:
        """Run `work` in a thread that holds a session of the token, logged in.

        Raises a subclass of KMSError; KMSUnavailableError where trying again may help.
        """
        future: Future[T] = Future()
        with self._work:
            if not self._users:
                raise KMSUnavailableError(f"{self._uri.token_name}: its last key was closed")
            if len(self._jobs) >= _MAX_WAITING:
                raise KMSUnavailableError(
                    f"{self._uri.token_name}: {_MAX_WAITING} calls wait for it already; "
                    "the PKCS#11 module does not answer"
                )
            if self._threads < _THREADS:
                name = f"pkcs11-{self._threads}"
                threading.Thread(target=self._serve, name=name, daemon=True).start()
                self._threads += 1
            self._jobs.append((future, work))
            self._work.notify()
        return await asyncio.wrap_future(future)

    def used(self, difference: int) -> bool:
        """Note a key more or less; whether there are keys or threads still.

        With the last key gone, the threads end as they come back from the module.
        """
        with self._work:
            self._users += difference
            self._work.notify_all()
            return self._users > 0 or self._threads > 0

    # --- in a thread of ours -------------------------------------------------------------------

    def _serve(self) -> None:
        seat, number = Seat(None), -1
        while True:
            job = self._next_job()
            if job is None:
                self._leave(seat)
                seat, number = Seat(None), -1
                self._log_out()
                if self._ends():
                    return
                continue  # somebody came meanwhile
            future, work = job
            if not future.set_running_or_notify_cancel():
                continue
            try:
                attachment = self._attach()
                if attachment.number != number:
                    self._leave(seat)
                    seat, number = Seat(None), -1
                    seat, number = self._open_seat(attachment), attachment.number
                future.set_result(self._run(attachment, seat, work))
            except BaseException as error:
                future.set_exception(error)

    def _next_job(self) -> tuple[Future[Any], Callable[[Seat], Any]] | None:
        """Wait for something to do; None when nobody uses the token any more."""
        with self._work:
            while not self._jobs:
                if not self._users:
                    return None
                self._work.wait()
            return self._jobs.popleft()

    def _ends(self) -> bool:
        """Count this thread out, unless it is needed again; the last one takes the token along."""
        with _tokens_lock, self._work:
            if self._users or self._jobs:
                return False
            self._threads -= 1
            if not self._threads:
                del _tokens[_identity(self._uri)]
            return True

    def _run(self, attachment: _Attachment, seat: Seat, work: Callable[[Seat], T]) -> T:
        try:
            result = self._in_module(attachment.epoch, lambda: work(seat))
        except (KMSUnavailableError, KeyMissingError):
            # The key too: a library that lost its token may go on with an empty one.
            self._detach(attachment)
            raise
        self._failures = 0
        return result

    def _open_seat(self, attachment: _Attachment) -> Seat:
        try:
            return Seat(self._in_module(attachment.epoch, attachment.token.open), attachment.epoch)
        except KMSUnavailableError:
            self._detach(attachment)
            raise

    def _in_module(self, epoch: int, work: Callable[[], T]) -> T:
        """Call the module; its errors become ours."""
        assert self._module is not None  # noqa: S101 - `_attach` comes first
        with self._module.gate.call():
            if self._module.epoch != epoch:
                raise KMSUnavailableError(f"{self._uri.token_name}: its module was re-initialised")
            try:
                return work()
            except KMSError:
                raise
            except Exception as error:
                if type(error).__module__.partition(".")[0] != "pkcs11":
                    raise
                raise self._translated(error) from None

    def _attach(self) -> _Attachment:
        """Find the token and log in, unless that is done already."""
        with self._lock:
            if self._module is None:
                self._module = module(allowed_module(self._uri), self._uri.uri)
            attachment = self._attachment
            if attachment is not None and attachment.epoch == self._module.epoch:
                return attachment
            self._forget()
            # Attaching again was not enough the last time: the library may hold a stale view.
            tried = self._failures >= 2 and self._module.reinitialise()
            try:
                self._attachment = self._find_and_log_in()
            except (KMSUnavailableError, PINNotUsableError):
                if tried or not self._module.reinitialise():
                    raise
                self._attachment = self._find_and_log_in()
            return self._attachment

    def _find_and_log_in(self) -> _Attachment:
        """Open the session that keeps us logged in; its login is that of the whole process."""
        import pkcs11

        assert self._module is not None  # noqa: S101
        epoch = self._module.epoch
        token = self._in_module(epoch, self._find)
        with self._module.login(token.slot.slot_id):
            session = self._in_module(epoch, token.open)
            try:
                if token.flags & pkcs11.TokenFlag.LOGIN_REQUIRED:
                    self._in_module(epoch, lambda: self._log_in(token, session, epoch))
            except BaseException:
                self._quietly(epoch, session.close)
                raise
            self._module.used(epoch, token.slot.slot_id, 1)
        self._attachments += 1
        log.info("pkcs11.attached", token=token.label, module=str(self._module.path))
        return _Attachment(self._attachments, epoch, token, session)

    def _find(self) -> Any:
        import pkcs11

        assert self._module is not None  # noqa: S101
        found, labels = [], []
        for slot in self._module.lib.get_slots(token_present=True):
            try:
                token = slot.get_token()
            except (pkcs11.TokenNotPresent, pkcs11.TokenNotRecognised):
                continue
            labels.append(token.label)
            if self._matches(token):
                found.append(token)
        if not found:
            there = ", ".join(repr(label) for label in labels if label) or "none"
            raise KMSUnavailableError(
                f"{self._uri.token_name} is not there (present: {there}); insert it, or correct "
                "the key URI"
            )
        if len(found) > 1:
            raise KMSConfigError(
                f"{self._uri.token_name}: {len(found)} tokens are called so; add serial= to the URI"
            )
        return found[0]

    def _matches(self, token: Any) -> bool:
        uri = self._uri
        wanted_and_there: Iterable[tuple[str, str]] = (
            (uri.token, token.label),
            (uri.serial, token.serial.decode("utf-8", "replace")),
            (uri.manufacturer, token.manufacturer_id),
            (uri.model, token.model),
        )
        return all(not wanted or wanted == there.rstrip() for wanted, there in wanted_and_there)

    def _log_in(self, token: Any, session: Any, epoch: int) -> None:
        import pkcs11

        assert self._module is not None  # noqa: S101
        name = self._uri.token_name
        if self._uri.pin_source is None:
            raise KMSConfigError(f"{name} needs a PIN; add pin-source=file:/path to the key URI")
        pin = read_pin(self._uri.pin_source)
        if why := not_usable(token, pin, epoch):
            raise KMSPermissionError(f"{name}: {why}. It is tried every {PAUSE_S:.0f} s")
        if token.flags & pkcs11.TokenFlag.USER_PIN_LOCKED:
            raise self._not_usable(token, pin, epoch, CKR_PIN_LOCKED)
        if was_refused(token, pin):
            raise KMSPermissionError(
                f"{name} refused this PIN before; it is not tried again, since that could lock "
                f"the token. Correct {self._uri.pin_source}"
            )
        if token.flags & pkcs11.TokenFlag.USER_PIN_FINAL_TRY:
            raise KMSPermissionError(
                f"{name}: one more wrong PIN locks it, so none is tried; log in once by hand"
            )
        result = self._module.log_in(session.handle, pin)
        if refusal := REFUSALS.get(result):
            remember_refused(token, pin)
            raise KMSPermissionError(
                f"{name} refused the PIN ({refusal}); it is not tried again. "
                f"Correct {self._uri.pin_source}"
            )
        if result in NOT_USABLE:
            raise self._not_usable(token, pin, epoch, result)
        if result != CKR_OK:
            raise KMSUnavailableError(f"{name}: logging in failed (CKR 0x{result:x})")

    def _not_usable(self, token: Any, pin: str, epoch: int, result: int) -> PINNotUsableError:
        why = remember_not_usable(token, pin, epoch, result)
        return PINNotUsableError(
            f"{self._uri.token_name}: {why}. It is tried every {PAUSE_S:.0f} s"
        )

    def _detach(self, attachment: _Attachment) -> None:
        with self._lock:
            self._failures += 1
            if self._attachment is attachment:
                self._forget()

    def _forget(self) -> None:
        """Let go of the attachment, whose sessions may be gone; call with the lock held."""
        attachment, self._attachment = self._attachment, None
        if attachment is None or self._module is None:
            return
        module, epoch, session = self._module, attachment.epoch, attachment.session
        slot_id = attachment.token.slot.slot_id
        with module.login(slot_id):
            # Logging out ends the login of every session of the process: the last user does it.
            if module.used(epoch, slot_id, -1) == 0:
                self._quietly(epoch, lambda: module.log_out(session.handle))
            self._quietly(epoch, session.close)

    def _leave(self, seat: Seat) -> None:
        """Close the session of a thread that gets another one, or ends."""
        if seat.session is not None:
            self._quietly(seat.epoch, seat.session.close)

    def _log_out(self) -> None:
        with self._lock:
            # Whoever came meanwhile attaches with this lock: before us, and then it is seen here,
            # or after us, and logs in again.
            if not self._users:
                self._forget()

    def _quietly(self, epoch: int, work: Callable[[], Any]) -> None:
        try:
            # After a re-initialisation a handle may be that of somebody else's session.
            self._in_module(epoch, work)
        except Exception:  # the token may be gone, and with it what was to be closed
            log.debug("pkcs11.close_failed", token=self._uri.token)

    def _translated(self, error: Exception) -> KMSError:
        """What an error of the module means for us."""
        kind, name = type(error).__name__, self._uri.token_name
        if kind in _CONFIG_ERRORS:
            return KMSConfigError(f"key URI {self._uri.uri!r}: the token refuses ({kind})")
        # Device removed, session or handle invalid, not logged in, no memory, or something of the
        # vendor's: all may be over after attaching again, and nothing was signed.
        return KMSUnavailableError(f"{name}: the PKCS#11 module failed ({kind})")


# Those that have keys, or threads that are not back yet. Taken before a token's `_work`.
_tokens: Final[dict[tuple[object, ...], Token]] = {}
_tokens_lock: Final = threading.Lock()


def shared_token(uri: PKCS11URI) -> Token:
    """Return the token of `uri`, the same object for all its keys; give it back to `release`."""
    with _tokens_lock:
        token = _tokens.get(_identity(uri)) or Token(uri)
        _tokens[_identity(uri)] = token
        token.used(1)
        return token


def release(uri: PKCS11URI) -> None:
    """Give a token back; with its last key go its threads, its sessions and its login."""
    with _tokens_lock:
        if not _tokens[_identity(uri)].used(-1):
            del _tokens[_identity(uri)]


def _identity(uri: PKCS11URI) -> tuple[object, ...]:
    return (
        *(uri.module_path, uri.token, uri.serial, uri.manufacturer, uri.model),
        uri.pin_source,
    )
