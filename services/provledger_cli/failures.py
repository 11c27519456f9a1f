"""How a command ends when something is wrong: a sentence, what to do next, and an exit code.

Nobody should see a traceback. An error that is not ours is a fault of ours: it is named, and
PROVLEDGER_DEBUG=1 shows where it came from.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from types import FrameType, MappingProxyType
from typing import Any, Final

from provledger.errors import (
    IdentifierError,
    InputError,
    KeyFormatError,
    KeyLedgerTooLargeError,
    NoKeyLedgerError,
    ProvledgerError,
    StatusError,
    VerificationError,
)
from provledger.fips import launch
from provledger_cli import output

HOLDS: Final = 0
DOES_NOT_HOLD: Final = 1
COULD_NOT_TELL: Final = 2

# What typer makes of Ctrl-C.
_INTERRUPTED: Final = 130
_INTERRUPTED_HINT: Final = "what was acknowledged stays; the same command can be run again"


class CommandError(ProvledgerError):
    """A command cannot go on. `hint` says what to do next; `details` is shown below, as it is."""

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        details: str = "",
        exit_code: int = COULD_NOT_TELL,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details
        self.exit_code = exit_code


def run(app: Callable[[], Any], *, fips_module: str = "") -> None:
    """Run a typer application to the end of the process, with our exit codes and words.

    With `fips_module`, PROVLEDGER_FIPS=1 first replaces the process by that module in FIPS mode.
    """
    # gRPC tells stderr of every connection that a restarted service closed; that is our talk.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    output.hold_closed_streams()
    output.spell_what_stdout_cannot()
    try:
        code = _exit_code(app, fips_module)
        output.flush()
    except BaseException:
        # Nobody was told, on a full disk for instance; Python's own exit code here, 1, would say
        # that something does not hold.
        output.drop()
        code = COULD_NOT_TELL
    sys.exit(code)


def _exit_code(app: Callable[[], Any], fips_module: str) -> int | str | None:
    """Run it; what is wrong is told, and may fail to be. As for `sys.exit`."""
    try:
        if fips_module:
            launch.enter(fips_module)
        _heed_signals()
        app()
    except SystemExit as exit_:
        if exit_.code == _INTERRUPTED:
            return _interrupted()
        return COULD_NOT_TELL if _is_no_answer(exit_) else exit_.code
    except KeyboardInterrupt:
        return _interrupted()
    except Exception as error:
        return report(error)
    return HOLDS


def _interrupted() -> int:
    output.fail("interrupted", hint=_INTERRUPTED_HINT)
    return COULD_NOT_TELL


def _is_no_answer(exit_: SystemExit) -> bool:
    """Whether an exit code is not a verb's, but what typer and rich make of a reader gone away."""
    from typer import Abort

    return exit_.code == DOES_NOT_HOLD and isinstance(exit_.__context__, (OSError, Abort))


def _heed_signals() -> None:
    """Have SIGTERM and a hang-up end a command as Ctrl-C does: nothing unfinished is left behind.

    Verbs that go on until they are told to end have handlers of their own, for Ctrl-C at least. A
    hang-up that is ignored stays so (`nohup`).
    """

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            # The kernel and the shell each send one: the second is no wish to end at once.
            signal.signal(number, signal.SIG_IGN)
        if callable(signal.getsignal(signal.SIGINT)):
            # Sent, not called: asyncio looks at which signal it was.
            signal.raise_signal(signal.SIGINT)
        else:  # Ctrl-C is ignored, as in the background of a script.
            raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, on_signal)


def report(
    error: Exception, *, hint: str = "", about: Mapping[str, str] = MappingProxyType({})
) -> int:
    """Say what went wrong; the exit code.

    hint: what to do next, in place of what is advised elsewhere for such an error.
    about: more members for the error in the JSON document.
    """
    if os.environ.get("PROVLEDGER_DEBUG") == "1":
        traceback.print_exception(error)
    if isinstance(error, CommandError):
        output.fail(error.message, hint=hint or error.hint, details=error.details, about=about)
        return error.exit_code
    if isinstance(error, StatusError):
        fields = [
            f"{item.field}: {item.description}"
            for item in error.violations
            if item.description not in error.message
        ]
        output.fail(
            f"{error.reason}: {error.message}",
            hint=hint or advice(error),
            details="\n".join(fields),
            reason=error.reason,
            about=about,
        )
        # Stored bytes that fail their own hashes are an answer, not the lack of one.
        return DOES_NOT_HOLD if error.code == "DATA_LOSS" else COULD_NOT_TELL
    if isinstance(error, VerificationError):
        output.fail(str(error), hint=hint or advice(error), reason=error.check, about=about)
        untold = isinstance(error, (NoKeyLedgerError, KeyLedgerTooLargeError))
        return COULD_NOT_TELL if untold else DOES_NOT_HOLD
    if isinstance(error, ProvledgerError):
        output.fail(str(error), hint=hint or advice(error), about=about)
        return COULD_NOT_TELL
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        output.fail(
            f"{where}{error.strerror or error}",
            hint=hint or ("make room there" if full else "check the path and its permissions"),
            about=about,
        )
        return COULD_NOT_TELL
    output.fail(
        f"a fault of ours: {type(error).__name__}: {error}",
        hint=hint or "run it again with PROVLEDGER_DEBUG=1 and report what it shows",
        about=about,
    )
    return COULD_NOT_TELL


def advice(error: ProvledgerError) -> str:
    """What to do about an error of the library or of a service."""
    if isinstance(error, StatusError):
        if error.code == "UNAVAILABLE" and _OTHER_NAME in error.message:
            return _OTHER_NAME_ADVICE
        if error.code == "UNAVAILABLE" and _is_about_tls(error.message):
            return _TLS_ADVICE
        if error.reason == "NO_ACTIVE_KEY":
            return _key_advice(error.metadata)
        return _ADVICE_BY_REASON.get(error.reason) or _ADVICE_BY_CODE.get(error.code, "")
    if isinstance(error, NoKeyLedgerError):
        return "name an export of the key ledger, or one that carries it"
    if isinstance(error, KeyFormatError):
        return "write a fresh one with: provledger keys jwks --out jwks.json"
    if isinstance(error, IdentifierError):
        return "correct that value and run the command again"
    if isinstance(error, InputError):
        return "correct the input and run the command again"
    return ""


def _is_about_tls(message: str) -> bool:
    return _HANDSHAKE in message or all(text in message for text in _CLOSED)


def _key_advice(about: Mapping[str, str]) -> str:
    """What to do where nothing can be signed: a registered key is not to be registered again.

    about: what the service says: the `purpose`, and where it has an active key that cannot be used,
        its `kid` and `because`, the reason.
    """
    kid = about.get("kid", "")
    if not kid:
        purpose = about.get("purpose", "P")
        return f"register one: provledger keys rotate --kid NEW --purpose {purpose}"
    if about.get("because") == "KMS_KEY_NOT_FOUND":
        return f"bring {kid} back to where it was, its file for instance; {replacing(kid)}"
    return f"put right what is wrong with {kid}, which the service's log names; {replacing(kid)}"


def replacing(kid: str, new: str = "NEW") -> str:
    """How a key is replaced that does not sign any more, to be said at the end of a hint."""
    return (
        f"if {kid} is lost: provledger keys revoke {kid} --replace-by {new} --after CHECKPOINT "
        "--reason WHY --recovery-key FILE (without --after, nothing counts that it signed: "
        "docs/runbooks/kms-outage.md)"
    )


# What gRPC says of a certificate that is of our CA, and not of the name that was dialled.
_OTHER_NAME: Final = "Hostname Verification Check failed"
_OTHER_NAME_ADVICE: Final = (
    "the certificate there has another name than the one dialled; if that is as it should be, as "
    "over a port-forward, say whose you expect: --endpoint [SERVICE=]NAME@HOST:PORT"
)
# What it says where a handshake fails, and where the other side ends it, or is asked without one.
_HANDSHAKE: Final = "Tls handshake failed"
_CLOSED: Final = ("failed to connect to all addresses", "Socket closed")
_TLS_ADVICE: Final = (
    "see whether that address takes TLS at all, --tls-ca is the CA of the certificate there, and "
    "yours is of a CA that is taken there: --tls-cert, --tls-key and --tls-ca"
)
_ADVICE_BY_REASON: Final = {
    "REQUEST_ID_REUSED": "this request id was given to other content before; use a new one",
    "NO_KEYS_ENDPOINT": "name the keys service: --endpoint keys=HOST:PORT",
    "KMS_KEY_NOT_FOUND": "bring the key back to where `provledger keys list` says that it is; "
    + replacing("KID"),
    "LEDGER_NOT_FOUND": "check the name; `provledger status` lists the ledgers that are there; to "
    "begin a new one, append to it with --create-ledger",
    "RECEIPT_NOT_FOUND": "check the name; `provledger list --tenant T` lists a ledger's receipts",
    "LOG_NOT_FOUND": "see the logs that are there with: provledger status",
    "SYSTEM_TENANT": "name another tenant",
    "SINK_NOT_FOUND": "see the sinks that are there with: provledger anchor sinks",
    "POLICY_NOT_FOUND": "see the newest version with: provledger anchor policy",
    "KEY_NOT_FOUND": "see the keys that are there with: provledger keys list",
    "ANCHOR_OVERDUE": "see which sink is away, and of which log, with: provledger anchor status",
    "DATABASE_FULL": "make room on the disk of the services, or of their database server: nothing "
    "else lets them write again; then run the same command again",
    "QUOTA_EXCEEDED": "come back later with the same command, or have tenant_quotas or "
    "shared_quotas raised",
}
_ADVICE_BY_CODE: Final = {
    "UNAVAILABLE": "see what is away with `provledger status`, start it with `provledger up`; of "
    "services elsewhere, see whether they run, and what --endpoint says",
    "DEADLINE_EXCEEDED": "see whether it is busy or stuck with `provledger status`, then try again",
    "RESOURCE_EXHAUSTED": "it is overloaded or the message is too large; try again, or send less",
    "NOT_FOUND": "check the name",
    "INVALID_ARGUMENT": "correct the field that is named and run the command again",
    "PERMISSION_DENIED": "your certificate's name is not on the service's list for this call",
    "UNAUTHENTICATED": "give --tls-cert, --tls-key and --tls-ca",
    "DATA_LOSS": "stop writing, keep the data directory as it is, and compare with a backup",
    "INTERNAL": "the service's log says more",
    "UNIMPLEMENTED": "the service may be older than this command: upgrade it, or use the command "
    "of its version; or is HOST:PORT in --endpoint another service?",
}
