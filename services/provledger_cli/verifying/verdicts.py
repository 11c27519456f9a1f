"""What `verify` found, told: for people, as JSON, and as an exit code."""

from __future__ import annotations

from typing import Any, Final

from provledger.errors import (
    KeyLedgerTooLargeError,
    NoKeyLedgerError,
    UnknownKeyError,
    VerificationError,
)
from provledger.report import Finding, Outcome, Status
from provledger_cli import output
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD
from provledger_cli.verifying.checking import HistoryError, Verdict

_MAX_NAME_CHARS: Final = 256


def document(verdict: Verdict, seconds: float) -> dict[str, Any]:
    """A verdict as JSON, with how long it took."""
    return {
        "holds": True if verdict.status is Status.VERIFIED else None,
        "status": verdict.status.value,
        "subject": verdict.subject,
        "receipts": verdict.receipts,
        "seconds": round(seconds, 3),
        **verdict.details,
        "checks": [
            {
                "check": result.check.value,
                "outcome": result.outcome.value,
                "detail": result.detail,
            }
            for result in verdict.results
        ],
    }


def failure_code(error: VerificationError) -> int:
    """The exit code; evidence that is missing, or cannot be counted on, tells nothing."""
    missing = error.finding == Finding.NOT_PLACED or isinstance(
        error, (HistoryError, NoKeyLedgerError, KeyLedgerTooLargeError)
    )
    return COULD_NOT_TELL if missing else DOES_NOT_HOLD


def advice(error: VerificationError, *, pinned: bool = False, given: bool = False) -> str:
    """What to do about something that does not hold; mostly there is nothing.

    `pinned`: the keys were those of a key ledger, which has every key there ever was by then.
    `given`: it was in a file of its own.
    """
    if isinstance(error, HistoryError):
        return advice(error.cause, pinned=pinned, given=given) or (
            "give a newer export of the log as --history, or none where what is verified shows "
            "enough by itself"
        )
    if isinstance(error, NoKeyLedgerError):
        return "give that of the key ledger: --key-ledger FILE, or the keys you trust: --keys FILE"
    if isinstance(error, KeyLedgerTooLargeError):
        return "verify with a version that reads more, or with the keys you trust: --keys FILE"
    if not isinstance(error, UnknownKeyError) or (pinned and not given):
        return ""
    if given:
        return "the key ledger given may be older than the file: export it anew"
    return (
        "the key set may be older than the file: fetch a fresh one (provledger keys jwks "
        "--out jwks.json), or verify with --pin"
    )


def failure_document(error: VerificationError, hint: str = "") -> dict[str, Any]:
    """What does not hold, as JSON; `hint` says what to do about it."""
    told = failure_code(error) == DOES_NOT_HOLD
    return {
        "holds": False if told else None,
        "status": "failed" if told else Status.UNVERIFIED.value,
        "receipt": error.receipt,
        "line": error.line,
        "check": error.check,
        "finding": error.finding,
        "message": error.message,
        **({"history": _in_history(error)} if isinstance(error, HistoryError) else {}),
        **({"next": hint} if hint else {}),
    }


def _in_history(error: HistoryError) -> dict[str, Any]:
    where = {"receipt": error.cause.receipt, "line": error.cause.line}
    return {"file": str(error.path), **where}


def show(verdict: Verdict, seconds: float) -> None:
    """Print a verdict for people, with how long it took."""
    rows = [
        (
            result.check.value,
            "holds" if result.outcome is Outcome.HOLDS else "not checked",
            result.detail,
        )
        for result in verdict.results
    ]
    cose = verdict.details.get("cose_receipt")
    if cose is not None:
        detail = f"log index {cose['log_index']} of {cose['tree_size']}, by key {cose['kid']}"
        rows.append(("cose_receipt", "holds", detail))
    output.show(output.table("", ["check", "outcome", ""], rows))
    subject = _subject(verdict)
    what = f"{verdict.receipts:,} receipts of {subject}"
    if not verdict.receipts or (verdict.receipts == 1 and "/receipts/" in subject):
        what = subject
    masked = verdict.details.get("masked_receipts", 0)
    if masked:
        # Whoever has the file can take payloads out of it: nobody should have to look for that.
        of_them = f"{masked:,} of them without all of their payload"
        what += f" ({of_them if verdict.receipts > 1 else 'without all of its payload'})"
    if verdict.status is Status.VERIFIED:
        output.show(f"[bold green]verified[/]: {what}, in {output.seconds(seconds)}")
    else:
        where = ""
        if (first := verdict.details.get("first_unverified")) is not None:
            # The checks above say what is missing of the weakest, and not of which receipts.
            count = verdict.details["unverified_receipts"]
            where = f", {count:,} of them unverified, first at line {first['line']:,}"
        output.show(f"[bold yellow]unverified[/]: {what}{where}; see what was not checked above")


def _subject(verdict: Verdict) -> str:
    """Whose verdict it is; receipts v0.1 may name themselves by any text, of any length."""
    name = verdict.subject
    return output.literal(name if len(name) <= _MAX_NAME_CHARS else f"{name[:_MAX_NAME_CHARS]}...")


def show_failure(error: VerificationError, hint: str = "") -> None:
    """Print what does not hold, for people; `hint` says what to do about it."""
    found = error.cause if isinstance(error, HistoryError) else error
    where = f"line {found.line}, " if found.line is not None else ""
    subject = ("first broken receipt", found.receipt or "(not known)")
    if isinstance(error, HistoryError):
        subject = ("in the history", f"{error.path}{found.receipt and ': '}{found.receipt}")
    rows = [
        subject,
        ("where", f"{where}check {error.check}"),
        ("finding", error.finding),
        ("why", error.message),
        *([("next", hint)] if hint else []),
    ]
    told = failure_code(error) == DOES_NOT_HOLD
    output.show("[bold red]does not hold[/]" if told else "[bold yellow]could not be told[/]")
    output.show(output.card("", rows))
