"""Words of others never do anything to a terminal, nor look like a line of ours."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from provledger.printable import printable
from provledger_cli import output

EVIL = "\x1b[2J\x1b[Hstate\n12:00:00 info   all is well\r\x9b2J\u202egnp\ud800"


@given(st.text())
def test_nothing_is_left_that_moves_a_cursor_or_turns_text(text: str) -> None:
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(char < " " or "\x7f" <= char <= "\x9f" for char in shown)
    assert not set("\u200e\u200f\u202a\u202e\u2066\u2069\ufeff") & set(shown)
    shown.encode()


def test_what_is_readable_stays_as_it_is() -> None:
    for text in ("", "plain [text]", "Ünïcödé 日本語 \u00a0 \N{SNOWMAN}", "a\\nb"):
        assert printable(text) == text
    assert printable("a\nb\x1b\u202e") == r"a\nb\x1b\u202e"
    assert printable("a\nb\tc\r", keep="\n\t") == "a\nb\tc\\r"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What both streams of a command show, on a terminal without colours."""
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=True, no_color=True, highlight=False)
    monkeypatch.setattr(output, "_out", console)
    monkeypatch.setattr(output, "_err", console)
    output.use_json(False, on_stdout=False)
    return file


def test_commands_show_the_words_of_others_as_text(terminal: io.StringIO) -> None:
    output.fail(EVIL, hint=EVIL, details=EVIL)
    output.say(EVIL)
    output.show(EVIL)
    output.show(output.card(EVIL, [("last error", EVIL), (EVIL, "x")]))
    output.show(output.table(EVIL, ["a", "b>"], [[EVIL, "[bold]x[/]"]]))
    text = terminal.getvalue()
    assert "\x1b[2J" not in text
    assert "\x1b[H" not in text
    assert not {"\x9b", "\r", "\u202e", "\ud800"} & set(text)
    assert r"\x1b[2J\x1b[Hstate\n12:00:00 info" in text
    assert "[bold]x[/]" in text


def test_lines_of_our_own_stay_lines(terminal: io.StringIO) -> None:
    output.say("[bold]two[/]\nlines")
    output.show("a\tb\nc")
    output.fail("no", details="one\ntwo")
    lines = [line.rstrip() for line in terminal.getvalue().splitlines()]
    assert {"lines", "c", "two"} <= {
        line.replace("\x1b[2m", "").replace("\x1b[0m", "") for line in lines
    }
