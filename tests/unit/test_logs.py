"""Log lines: their shape, and what never gets into them."""

from __future__ import annotations

import asyncio
import gc
import io
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from grpc import StatusCode

from provledger import logs
from provledger.errors import NotFoundError


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_event_is_one_json_line(stream: io.StringIO) -> None:
    logs.configure("ledger", stream=stream)
    logs.get("x").info("append.flushed", items=3, took_ms=1.5, name="a b")
    logs.get("x").debug("not.shown")
    (line,) = lines(stream)
    assert line["ts"].endswith("Z")
    del line["ts"]
    assert line == {
        "level": "info",
        "service": "ledger",
        "event": "append.flushed",
        "fields": {"items": 3, "took_ms": 1.5, "name": "a b"},
    }


def test_payloads_in_any_form_are_kept_out(stream: io.StringIO) -> None:
    logs.configure("ledger", stream=stream)
    payload = b"s3cret"
    logs.get("x").info(
        "e",
        raw=payload,
        nested={"a": "s3cret"},
        rows=[payload],
        thing=object(),
        long="x" * 5000,
        path=Path("/p"),
        exc=KeyError("s3cret"),
        few=["a", 1],
    )
    (line,) = lines(stream)
    assert "s3cret" not in json.dumps(line)
    assert line["fields"]["raw"] == "<6 bytes>"
    assert line["fields"]["few"] == ["a", 1]
    assert len(line["fields"]["long"]) < 600


def test_exceptions_are_types_and_code_lines(stream: io.StringIO) -> None:
    """Messages of exceptions that are not ours quote values: a row, a key, a number."""

    def broken() -> None:
        try:
            int("s3cret")
        except ValueError as error:
            raise NotFoundError("GONE", "no such ledger") from error

    logs.configure("ledger", stream=stream)
    with pytest.raises(NotFoundError) as caught:
        broken()
    logs.get("x").error("failed", exc_info=caught.value)
    (line,) = lines(stream)
    text = "\n".join(line["exception"])
    assert "NotFoundError: no such ledger" in text
    assert "ValueError" in text
    assert "test_logs.py" in text
    assert "s3cret" not in text


def test_exceptions_logged_by_other_libraries_are_treated_alike(stream: io.StringIO) -> None:
    logs.configure("ledger", stream=stream)
    try:
        int("s3cret")
    except ValueError:
        logging.getLogger("grpc").exception("Unexpected in %s", "handler")
    (line,) = lines(stream)
    assert line["event"] == "log.grpc"
    assert line["fields"] == {"message": "Unexpected in handler"}
    assert "s3cret" not in json.dumps(line)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_asyncio_does_not_quote_tasks_and_callbacks(
    stream: io.StringIO, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    async def bad() -> None:
        raise ValueError("s3cret")

    def callback(value: str) -> None:
        raise KeyError(value)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(callback, "s3cret")
        await asyncio.wait([asyncio.create_task(bad())])
        gc.collect()

    logs.configure("ledger", stream=stream)
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(main())
    found = {line["fields"]["message"]: line for line in lines(stream)}
    told = found.pop("Task exception was never retrieved")
    assert told["event"] == "log.asyncio"
    assert told["exception"][0] == "ValueError"
    assert any(" bad" in line for line in told["exception"])
    ((message, told),) = found.items()
    assert message.startswith("Exception in callback")
    assert told["exception"][0] == "KeyError"
    assert "s3cret" not in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("socket.accept() out of system resource", "socket.accept() out of system resource"),
        ("Exception in callback f(<Task exception=E('s3cret')>)", "Exception in callback f"),
        ("Exception in callback f('s3cret') at x.py:1", "Exception in callback f"),
        ("Failed: {'a': 's3cret'}", "Failed"),
        ("Fatal error\nprotocol: s3cret", "Fatal error"),
    ],
)
def test_asyncio_says_what_happened(stream: io.StringIO, text: str, written: str) -> None:
    logs.configure("ledger", stream=stream)
    logging.getLogger("asyncio").error(text)
    (line,) = lines(stream)
    assert line["fields"] == {"message": written}


@pytest.mark.parametrize(
    ("text", "args", "written"),
    [
        ("Header format invalid! %s", ("key:s3cret",), "Header format invalid! ..."),
        (
            "%s at %s, retrying in %.2fs: %s",
            (StatusCode.UNAVAILABLE, "user:s3cret@host", 1.5, OSError("s3cret")),
            "StatusCode.UNAVAILABLE at ..., retrying in 1.50s: ...",
        ),
        ("Queue full of %(what)s", ({"what": "s3cret"},), "Queue full of ..."),
        ("100% full", (), "100% full"),
    ],
)
def test_opentelemetry_says_what_happened(
    stream: io.StringIO, text: str, args: tuple[object, ...], written: str
) -> None:
    logs.configure("ledger", stream=stream)
    logging.getLogger("opentelemetry.util.re").error(text, *args)
    (line,) = lines(stream)
    assert line["fields"] == {"message": written}


@pytest.mark.parametrize("level", ["debug", "info"])
def test_other_libraries_are_heard_from_warnings_on_only(stream: io.StringIO, level: str) -> None:
    """At debug, botocore writes the answers that credentials come in."""
    logs.configure("witness", level=level, stream=stream)
    for name in ("botocore.parsers", "alembic.runtime", "provledger_like"):
        logging.getLogger(name).debug("Response body: %s", "s3cret")
        logging.getLogger(name).info("s3cret")
    logging.getLogger("botocore.retries").warning("slow")
    logs.get("x").debug("ours")
    events = [line["event"] for line in lines(stream)]
    assert events == ["log.botocore.retries", *(["ours"] if level == "debug" else [])]
    assert "s3cret" not in stream.getvalue()


def test_debug_mode_shows_messages(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROVLEDGER_DEBUG", "1")
    logs.configure("ledger", stream=stream)
    logs.get("x").warning("w", exc_info=ValueError("visible"))
    assert "visible" in stream.getvalue()


def test_exception_groups_show_their_members(stream: io.StringIO) -> None:
    logs.configure("ledger", stream=stream)
    group = ExceptionGroup("g", [KeyError("a"), OSError(2, "No such file")])
    logs.get("x").error("failed", exc_info=group)
    text = "\n".join(lines(stream)[0]["exception"])
    assert "KeyError" in text
    assert "No such file" in text


def test_readable_mode_cannot_be_made_to_fake_lines(stream: io.StringIO) -> None:
    logs.configure("ledger", human=True, stream=stream)
    logs.get("x").info("e", name="a\n12:00:00 error  fake", plain="b")
    (line,) = stream.getvalue().splitlines()
    assert "\\n" in line
    assert line.endswith("plain=b")


def test_what_others_said_cannot_fake_lines_in_an_exception(stream: io.StringIO) -> None:
    """A sink's answer stands in the message of our own error."""
    said = "\x1b[2J\x1b[Hall is well\n12:00:00.000 info    anchor   anchor.sink_back"
    logs.configure("anchor", human=True, stream=stream)
    logs.get("x").warning("anchor.sink_failed", exc_info=NotFoundError("GONE", said))
    logging.getLogger("lib\nx").warning("%s", said)
    lines = stream.getvalue().split("\n")[:-1]
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert r"\x1b[2J\x1b[Hall is well\n12:00" in lines[1]
