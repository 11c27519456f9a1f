"""Structured logs: one JSON object a line on stderr, or readable lines on a terminal.

    log = logs.get(__name__)
    log.info("append.flushed", items=120, took_ms=3.1)

gives ``{"ts": "...Z", "level": "info", "service": "ledger", "event": "append.flushed",
"fields": {"items": 120, "took_ms": 3.1}}``. Standard logging carries it all, so records of other
libraries come out in the same shape, their text under `fields.message`: warnings and worse. Below
that they write whatever helps them, such as the answer that an AWS credential came in.

No payload, salt or secret may reach a log. What can be kept out by form is: bytes and nested
structures are replaced by their size, long text is cut, and of an exception that is not ours only
the type and the code lines are written, not its message, which may quote a value or a row. Nor is
what asyncio says of tasks and callbacks, beyond what happened: it quotes results and exceptions. Of
what OpenTelemetry says, text that it puts in is left out: it quotes headers and addresses.
`PROVLEDGER_DEBUG=1` writes the messages too; it is meant for development.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import PurePath
from typing import IO, Any, Final
from uuid import UUID

from provledger.errors import ProvledgerError
from provledger.printable import printable

_MAX_TEXT: Final = 512
_MAX_LIST: Final = 20
_MAX_FRAMES: Final = 25
_FIELDS: Final = "provledger_fields"
_ASYNCIO: Final = "asyncio"
_OPENTELEMETRY: Final = "opentelemetry."
# Where an object begins that is shown as itself: behind the first line, or within it.
_OBJECT: Final = re.compile(r"\n|\((?!\))|[<{\['\"]")

trace_id: Callable[[], str] | None = None
"""Set by `provledger.telemetry` when tracing is on: hexadecimal trace id of the current span."""


class EventLogger:
    """Logs events: a dotted name, and fields of plain values. Made by `get`."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, event: str, **fields: object) -> None:
        """For whoever searches a fault in this code."""
        self._log(logging.DEBUG, event, None, fields)

    def info(self, event: str, **fields: object) -> None:
        """Something an operator may want to know happened."""
        self._log(logging.INFO, event, None, fields)

    def warning(
        self, event: str, *, exc_info: BaseException | None = None, **fields: object
    ) -> None:
        """Something is not as it should be, and the service copes."""
        self._log(logging.WARNING, event, exc_info, fields)

    def error(self, event: str, *, exc_info: BaseException | None = None, **fields: object) -> None:
        """Something failed that should not; `exc_info` is written as type and code lines."""
        self._log(logging.ERROR, event, exc_info, fields)

    def _log(
        self, level: int, event: str, exc: BaseException | None, fields: Mapping[str, object]
    ) -> None:
        if self._logger.isEnabledFor(level):
            self._logger.log(level, event, exc_info=exc, extra={_FIELDS: fields})


def get(name: str) -> EventLogger:
    """The event logger for a module; `name` as for `logging.getLogger`."""
    return EventLogger(logging.getLogger(name))


def configure(
    service: str,
    *,
    level: str = "info",
    human: bool | None = None,
    stream: IO[str] | None = None,
) -> None:
    """Send the logs of this process to `stream` (stderr): ours from `level` on.

    Those of other libraries from warnings on, at the least. `human` chooses readable lines; None
    asks whether the stream is a terminal.
    """
    target = sys.stderr if stream is None else stream
    readable = target.isatty() if human is None else human
    handler = logging.StreamHandler(target)
    handler.setFormatter(_HumanFormatter(service) if readable else _JSONFormatter(service))
    handler.addFilter(_is_fit)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def plain(value: object) -> object:
    """`value` in a form fit for a log line: short, flat, and without bytes."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return value if len(value) <= _MAX_TEXT else value[:_MAX_TEXT] + "..."
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, UUID | PurePath):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, BaseException):
        return describe_exception(value)
    if isinstance(value, list | tuple | set | frozenset):
        if len(value) <= _MAX_LIST and all(isinstance(part, str | int | float) for part in value):
            return [plain(part) for part in value]
        return f"<{len(value)} items>"
    if isinstance(value, Mapping):
        return f"<{len(value)} members>"
    return f"<{type(value).__name__}>"


def describe_exception(exc: BaseException) -> str:
    """Type of `exc`, with its message if the message is ours or about the operating system."""
    name = type(exc).__name__
    if isinstance(exc, ProvledgerError) or _debug():
        return str(plain(f"{name}: {exc}"))
    if isinstance(exc, OSError) and exc.strerror:
        return f"{name}: {exc.strerror}"
    return name


def format_exception(exc: BaseException) -> list[str]:
    """Type and code lines of `exc` and of what caused it, innermost cause last."""
    lines: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = exc
    while current is not None and id(current) not in seen and len(seen) < 8:
        seen.add(id(current))
        lines.append(describe_exception(current))
        for frame in traceback.extract_tb(current.__traceback__)[-_MAX_FRAMES:]:
            lines.append(f"  {_short(frame.filename)}:{frame.lineno} {frame.name}")
        if isinstance(current, BaseExceptionGroup):
            for number, inner in enumerate(current.exceptions[:8]):
                lines += [f"  [{number}] {line}" for line in format_exception(inner)]
        hidden = None if current.__suppress_context__ else current.__context__
        current = current.__cause__ or hidden
    return lines


def _debug() -> bool:
    return os.environ.get("PROVLEDGER_DEBUG", "") not in ("", "0")


def _short(filename: str) -> str:
    """A path from the package on: where it is installed is nobody's business."""
    parts = filename.replace("\\", "/").split("/")
    for marker in ("site-packages", "common", "services"):
        if marker in parts:
            return "/".join(parts[len(parts) - parts[::-1].index(marker) :])
    return "/".join(parts[-2:])


def _is_fit(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING or hasattr(record, _FIELDS)


def _record_parts(record: logging.LogRecord) -> tuple[str, dict[str, object]]:
    """Event name and plain fields of any record, ours or another library's."""
    fields: Mapping[str, object] | None = getattr(record, _FIELDS, None)
    if fields is None:
        return f"log.{record.name}", {"message": plain(_message(record))}
    return record.getMessage(), {key: plain(value) for key, value in fields.items()}


def _message(record: logging.LogRecord) -> str:
    """What another library says; of asyncio, what happened, and not to which object.

    OpenTelemetry's own words, without those that it was given: a header of OTLP that it cannot
    read, or an address with a password in it. The exception comes with the record, as any other.
    """
    if _debug():
        return record.getMessage()
    if record.name.startswith(_OPENTELEMETRY):
        return _without_text(record)
    text = record.getMessage()
    if record.name != _ASYNCIO:
        return text
    return _OBJECT.split(text, maxsplit=1)[0].rstrip(" :")


def _without_text(record: logging.LogRecord) -> str:
    """The message, with numbers and codes filled in, and `...` for everything else."""
    args = record.args
    if not args:
        return str(record.msg)
    if isinstance(args, Mapping):
        return str(record.msg) % {name: _code(value) for name, value in args.items()}
    return str(record.msg) % tuple(map(_code, args))


def _code(value: object) -> object:
    return value if isinstance(value, int | float | Enum) else "..."


def _exception(record: logging.LogRecord) -> BaseException | None:
    info = record.exc_info
    return info[1] if isinstance(info, tuple) else None


class _JSONFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _record_parts(record)
        line: dict[str, Any] = {
            "ts": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds")[
                :-6
            ]
            + "Z",
            "level": record.levelname.lower(),
            "service": self._service,
            "event": event,
        }
        if fields:
            line["fields"] = fields
        current = trace_id() if trace_id is not None else ""
        if current:
            line["trace_id"] = current
        exc = _exception(record)
        if exc is not None:
            line["exception"] = format_exception(exc)
        # `allow_nan` stays on: a log line with NaN is better than a failing logger.
        return json.dumps(line, ensure_ascii=True, default=lambda value: f"<{type(value)}>")


class _HumanFormatter(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        event, fields = _record_parts(record)
        clock = datetime.fromtimestamp(record.created, UTC).strftime("%H:%M:%S.%f")[:-3]
        pairs = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        what = f"{printable(event)} {pairs}".rstrip()
        line = f"{clock} {record.levelname.lower():<7} {self._service:<8} {what}"
        exc = _exception(record)
        if exc is not None:
            line += "".join(f"\n    {printable(part)}" for part in format_exception(exc))
        return line


def _quoted(value: object) -> str:
    """Text with anything that could fake a line or move the cursor escaped."""
    if isinstance(value, str) and value.isprintable() and " " not in value and '"' not in value:
        return value
    return json.dumps(value)
