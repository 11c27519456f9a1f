"""What commands say: one document on stdout with `--json`, everything else for people.

Talk and progress go to stderr always, so that stdout can be piped. Nothing printed here holds a
payload unless a payload was asked for. What is meant for people goes through `printable`: much of
it is the words of services, sinks and files.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from types import MappingProxyType
from typing import IO, Any, Final, NoReturn, TextIO

import orjson
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from provledger.printable import printable

_PIPE_WIDTH: Final = 240
_COULD_NOT_TELL: Final = 2
_LAYOUT: Final = "\n\t"


class _Console(Console):
    """A console that ends the command with our exit code when its reader has gone away."""

    def on_broken_pipe(self) -> None:
        """Rich's own exit code here, 1, would say that something does not hold."""
        _reader_gone()


def _reader_gone() -> NoReturn:
    # What is still buffered would fail again when the process ends.
    _to_nowhere(sys.stdout)
    raise SystemExit(_COULD_NOT_TELL)


def _to_nowhere(stream: TextIO | None) -> None:
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def flush() -> None:
    """Write what is still buffered; raises OSError where that cannot be."""
    # The type checker does not know that they may be missing.
    streams: tuple[TextIO | None, ...] = (sys.stdout, sys.stderr)
    for stream in streams:
        if stream is not None:
            stream.flush()


def drop() -> None:
    """Let go of what is still buffered: at the end of the process, nobody would take it either."""
    _to_nowhere(sys.stdout)
    _to_nowhere(sys.stderr)


def _console(stream: TextIO | None, *, stderr: bool) -> Console:
    # Into a file or pipe, lines are as long as they are: nothing is folded for a narrow screen.
    # A stream is None where the command was started without it (`>&-`).
    width = None if stream is not None and stream.isatty() else _PIPE_WIDTH
    # Names such as a:key:b stay as they are.
    return _Console(stderr=stderr, highlight=False, emoji=False, soft_wrap=True, width=width)


_out = _console(sys.stdout, stderr=False)
_err = _console(sys.stderr, stderr=True)


class _Mode:
    json = False
    written = False
    on_stderr = False


def hold_closed_streams() -> None:
    """Put /dev/null where a standard stream is closed: else a file opened later is there."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest number that is free is given out: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def spell_what_stdout_cannot() -> None:
    """Have stdout spell what it has no letters for, as stderr does: `LC_ALL=C`, Latin-1.

    Else a name in the answer would end a command whose work is done, as a fault of ours.
    """
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def use_json(flag: bool, *, on_stdout: bool = True) -> None:
    """Say, first thing in a verb, whether it answers in JSON, and whether on stdout.

    If so and stdout is closed, the command ends here: what it did nobody would learn.
    """
    _Mode.json = flag
    _Mode.written = False
    _Mode.on_stderr = False
    if on_stdout:
        _stdout()


def _stdout() -> TextIO:
    # The type checker does not know that it may be missing.
    stream: TextIO | None = sys.stdout
    if stream is not None:
        return stream
    _Mode.written = True
    fail("standard output is closed", hint="give the answer a place to go, such as >/dev/null")
    raise SystemExit(_COULD_NOT_TELL)


def answer_on_stderr() -> None:
    """Say that stdout is for what was asked to be written there, the answer for stderr."""
    _Mode.on_stderr = True


def document(value: Mapping[str, Any] | Sequence[Any]) -> None:
    r"""Write the one JSON document of a command to stdout. Bytes become lower-case hex.

    What of a file's name is not UTF-8 is spelled as in Python, `\udcff`, as it is for people.
    """
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    try:
        text = orjson.dumps(value, default=_plain, option=options) + b"\n"
    except TypeError:
        text = orjson.dumps(_utf8(value), default=_plain, option=options) + b"\n"
    if not _Mode.on_stderr:
        raw(text)
        return
    _Mode.written = True
    _err.file.write(text.decode())
    _err.file.flush()


def raw(data: bytes) -> None:
    """Write bytes to stdout as they are."""
    _Mode.written = True
    with stdout_bytes() as file:
        file.write(data)


@contextmanager
def stdout_bytes() -> Iterator[IO[bytes]]:
    """Standard output, open for bytes."""
    try:
        stream = _stdout()
        stream.flush()
        yield stream.buffer
        stream.buffer.flush()
    except BrokenPipeError:
        _reader_gone()


def _utf8(value: Any) -> Any:
    """The same value, with lone surrogates spelled out in every text."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, Mapping):
        return {_utf8(name): _utf8(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_utf8(each) for each in value]
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(type(value).__name__)


def say(text: str) -> None:
    """Tell people something, on stderr. Rich markup is understood: see `literal`."""
    _err.print(printable(text, keep=_LAYOUT))


def show(renderable: Any) -> None:
    """Print a table or text for people, on stdout. Text as for `say`."""
    if isinstance(renderable, str):
        renderable = printable(renderable, keep=_LAYOUT)
    if _Mode.on_stderr:
        _err.print(renderable)
        return
    _stdout()
    _out.print(renderable)


def fail(
    message: str,
    *,
    hint: str = "",
    details: str = "",
    reason: str = "",
    about: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Say what went wrong and what to do; with `--json`, on stdout too if that is still empty.

    about: members of the document beside these.
    """
    _err.print(f"[bold red]error:[/] {literal(message)}")
    if details:
        _err.print(escape(printable(details, keep=_LAYOUT)), style="dim")
    if hint:
        _err.print(f"[bold]next:[/] {literal(hint)}")
    if _Mode.json and not _Mode.written:
        error = {"message": message, "reason": reason, "next": hint, "details": details, **about}
        document({"error": {name: text for name, text in error.items() if text}})


def literal(text: object) -> str:
    """Text of one line in which nothing is markup, for `say` and `show`.

    Whatever is not ours goes through it: names and reasons from files and services, paths, URIs.
    """
    return escape(printable(str(text)))


def table(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table of text; columns whose heading ends in `>` are aligned to the right."""
    made = Table(
        title=literal(title) or None,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
    )
    for column in columns:
        right = column.endswith(">")
        made.add_column(column.rstrip(">"), justify="right" if right else "left", overflow="fold")
    for row in rows:
        made.add_row(*[literal(cell) for cell in row])
    return made


def card(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """A list of names and values, one pair a line; empty values are left out."""
    made = Table(title=literal(title) or None, title_justify="left", title_style="bold", box=None)
    made.show_header = False
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        if value:
            made.add_row(literal(name), literal(value))
    return made


def progress(unit: str, *, counted: bool = True) -> Progress:
    """A progress bar on stderr, seen only on a terminal.

    `counted` shows "n/total unit"; otherwise the bar is a share, and the field `done` of its task
    says how many units that was.
    """
    columns: list[Any] = [TextColumn("{task.description}"), BarColumn()]
    if counted:
        columns += [MofNCompleteColumn(), TextColumn(unit)]
    else:
        columns += [TaskProgressColumn(), TextColumn(f"{{task.fields[done]:,}} {unit}")]
    columns += [TimeElapsedColumn(), TimeRemainingColumn()]
    # FORCE_COLOR makes a terminal of every stream for rich; into a pipe no bar is drawn for that.
    shown = _err.is_terminal and _err.file.isatty()
    return Progress(*columns, console=_err, transient=False, disable=not shown)


def seconds(value: float) -> str:
    """A duration for people."""
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60)} s"


def short(data: bytes) -> str:
    """The first eight bytes of a hash, in hex, for tables."""
    return data.hex()[:16] if data else ""
