"""`keys rebuild`: the registry, built anew from the key ledger."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from provledger_cli import output
from provledger_cli.failures import DOES_NOT_HOLD, CommandError
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
)

if TYPE_CHECKING:
    from provledger.api.keys.v1 import keys_pb2
    from provledger.errors import VerificationError
    from provledger.export import ConsistencyProof
    from provledger.key_events import SignedEvent
    from provledger_cli.connect import Target

_PART_EVENTS: Final = 1000
_PART_BYTES: Final = 4 * 1024 * 1024
_EVENT_S: Final = 0.02
"""What the service may take to verify an event; mostly it is a tenth of it."""


def rebuild(
    export: Annotated[
        Path,
        typer.Argument(
            envvar="PROVLEDGER_KEY_LEDGER",
            help="Any export that carries the key ledger, or an export of the key ledger itself: "
            "the newest there is.",
            show_default=False,
        ),
    ],
    pin: Annotated[
        str,
        typer.Option(
            "--pin",
            envvar="PROVLEDGER_KEY_PIN",
            metavar="JKT",
            help="RFC 7638 thumbprint, in hex, of a key its genesis names, best the recovery "
            "key; or a file (*.pin) with it.",
            show_default=False,
        ),
    ],
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 30.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Fill an empty key registry from the key ledger in an export, verified from the pin on.

    For a registry whose database is lost. Services sign nothing until then; afterwards they go on
    with the keys that the ledger names. A registry that holds keys is never touched. Where a
    revoked key signed the newest checkpoint of the export, an earlier one in it must prove all key
    events.

    Example: keys rebuild keys.ndjson --pin key-ledger.pin
    """
    from provledger_cli.connect import run_async, target
    from provledger_cli.options import read_pin

    output.use_json(as_json)
    thumbprint = read_pin(pin)
    where = target(
        data_dir, endpoint, first="keys", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    events = _exported(export, thumbprint)
    if not events:
        raise CommandError(f"{export} holds no key event")
    count = run_async(_rebuild(where, events, thumbprint, timeout))
    if as_json:
        output.document({"keys": count, "events": len(events)})
    else:
        output.show(f"{count} keys from {len(events)} key events; see `keys list`")


def _exported(export: Path, pin: bytes) -> list[tuple[SignedEvent, str]]:
    """The events of an export, which is verified; raises VerificationError, and CommandError for a
    file that is none."""
    from provledger.errors import UnknownEventError, VerificationError
    from provledger.key_ledger import verify_by_earlier, verify_key_ledger
    from provledger.key_ledger_lines import lines_of, read_events
    from provledger.report import Finding
    from provledger_cli.sources import LineSource
    from provledger_cli.verifying.checking import MAX_LINE_BYTES, exported

    with LineSource(export, max_line_bytes=MAX_LINE_BYTES) as source:
        reading = exported(export, source.lines())
        lines = lines_of(reading)
        try:
            verify_key_ledger(lines, pin)
        except UnknownEventError:
            raise
        except VerificationError:
            try:
                verify_by_earlier(lines, pin, _earlier(reading))
            except VerificationError as error:
                if error.finding != Finding.NOT_PLACED or isinstance(error, UnknownEventError):
                    raise
                raise _not_proven(export, error) from error
            output.say(
                "the newest checkpoint or head of the export is by a revoked key: the key events "
                "are proven by an earlier checkpoint"
            )
    return read_events(lines)


def _not_proven(export: Path, error: VerificationError) -> CommandError:
    return CommandError(
        f"{export} does not prove its key events: {error.message}",
        hint="give an export from before that checkpoint, if it has all key events; or export anew "
        "with --no-wait --earlier 4096, or with --checkpoint FILE for a checkpoint kept since the "
        "last key event; without any, only the newest copy of the registry's database helps",
        exit_code=DOES_NOT_HOLD,
    )


def _earlier(rest: Iterable[bytes]) -> Sequence[ConsistencyProof]:
    """Earlier checkpoints in the footer of an export, which is the last of its lines."""
    from provledger.errors import ReceiptFormatError
    from provledger.export import parse_footer

    try:
        return [each for line in deque(rest, maxlen=1) for each in parse_footer(line).consistency]
    except ReceiptFormatError:
        return []


async def _rebuild(
    where: Target, events: list[tuple[SignedEvent, str]], pin: bytes, timeout_s: float
) -> int:
    from provledger.api.keys.v1 import keys_pb2
    from provledger.client.calls import unary
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        pairs = [(signed.encode(), receipt) for signed, receipt in events]
        parts = list(_parts(pairs, pin))
        if len(parts) == 1:
            # Which services of earlier versions know as well.
            request = keys_pb2.RebuildRegistryRequest(
                payloads=parts[0].payloads, receipts=parts[0].receipts, pin=pin
            )
            return int((await remote.call(remote.keys.RebuildRegistry, request)).key_count)
        patience_s = timeout_s + len(events) * _EVENT_S
        answer = await unary(
            lambda given, **options: remote.keys.RebuildRegistryStream(iter(given), **options),
            parts,
            timeout_s=patience_s,
            attempt_timeout_s=patience_s,
        )
        return int(answer.key_count)


def _parts(
    pairs: Sequence[tuple[bytes, str]], pin: bytes
) -> Iterator[keys_pb2.RebuildRegistryStreamRequest]:
    """The (payload, receipt) pairs as they are sent, each part well within a message."""
    from provledger.api.keys.v1 import keys_pb2

    part = keys_pb2.RebuildRegistryStreamRequest(pin=pin, event_count=len(pairs))
    size = 0
    for payload, receipt in pairs:
        if part.payloads and (
            size + len(payload) > _PART_BYTES or len(part.payloads) >= _PART_EVENTS
        ):
            yield part
            part, size = keys_pb2.RebuildRegistryStreamRequest(), 0
        part.payloads.append(payload)
        part.receipts.append(receipt)
        size += len(payload)
    yield part
