"""`make demo`: the whole way of a receipt, on this machine, with the real commands.

    up · import 500 real mutations, rotating the witness's key in the middle · wait until they are
    anchored · export · down · verify offline, with the keys that the key ledger names ·
    flip one byte in a copy · verify that it is found, and where

Each step is a command as anybody would type it, run with --json. The exit code is 0 only if all of
them did what they should, the last one included: it must fail, with the receipt that was changed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from provledger_cli.embedded.datadir import PIN_FILE
from provledger_cli.failures import DOES_NOT_HOLD, HOLDS

MUTATIONS = "demo-mutations.ndjson"
TENANT = "demo"
NEW_KID = "witness-2"
RECORDED_S = 60.0
"""How long the first receipts may take, the start of a command included."""

_console = Console(highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """A step did not do what it should; the text says which."""


def run(work: Path, *arguments: str, expect: int = HOLDS) -> dict[str, Any]:
    """Run one command in `work`; its JSON document. Raises DemoFailed for another exit code.

    Its talk and progress go straight to the terminal.
    """
    _console.print(f"[dim]$ provledger {escape(' '.join(arguments))}[/]")
    done = subprocess.run(
        [sys.executable, "-m", "provledger_cli", *arguments, "--json"],
        stdout=subprocess.PIPE,
        cwd=work,
        check=False,
    )
    try:
        answer: dict[str, Any] = orjson.loads(done.stdout)
    except orjson.JSONDecodeError:
        answer = {}
    if done.returncode != expect:
        raise DemoFailed(
            f"`provledger {arguments[0]}` ended with {done.returncode}, not {expect}: {answer}"
        )
    return answer


def import_and_rotate(work: Path, data: tuple[str, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Import the mutations line by line from a pipe; rotate once some of them are recorded."""
    lines = (work / MUTATIONS).read_bytes().splitlines(keepends=True)
    named = ("--source", MUTATIONS)
    arguments = ("import", "-", *named, "--tenant", TENANT, "--batch", "10", *data)
    _console.print(f"[dim]$ provledger {escape(' '.join(arguments))} < {MUTATIONS}[/]")
    importing = subprocess.Popen(
        [sys.executable, "-m", "provledger_cli", *arguments, "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=work,
    )
    assert importing.stdin is not None  # noqa: S101 - for the type checker: it is a pipe
    rotated: dict[str, Any] = {}
    failures: list[Exception] = []

    def rotate() -> None:
        try:
            rotated.update(run(work, "keys", "rotate", "--kid", NEW_KID, *data))
        except Exception as error:
            failures.append(error)

    rotating = threading.Thread(target=rotate)
    for number, line in enumerate(lines):
        if number == len(lines) // 4:
            # The pipe takes them sooner than a slow machine has started the command that reads it.
            _wait_for_receipts(work, data)
            rotating.start()
        importing.stdin.write(line)
        importing.stdin.flush()
        # As fast as a busy team, not as fast as the disk: the rotation takes place meanwhile. The
        # last quarter waits for it.
        if number == 3 * len(lines) // 4:
            rotating.join()
        time.sleep(0.002)
    importing.stdin.close()
    answer = importing.stdout.read() if importing.stdout is not None else b""
    if importing.wait() != HOLDS or failures:
        raise DemoFailed(f"the import ended with {importing.returncode}: {failures or answer!r}")
    return orjson.loads(answer), rotated


def _wait_for_receipts(work: Path, data: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "provledger_cli", "status", *data, "--json"]
    deadline_s = time.monotonic() + RECORDED_S
    while time.monotonic() < deadline_s:
        told = subprocess.run(command, cwd=work, capture_output=True, check=False)
        is_told = told.returncode in (HOLDS, DOES_NOT_HOLD)
        ledgers = orjson.loads(told.stdout)["ledgers"] if is_told else []
        if any(each["seq"] > 0 and f"/{TENANT}/" in each["name"] for each in ledgers):
            return
        time.sleep(0.1)
    raise DemoFailed(f"the import recorded nothing within {RECORDED_S:g} s")


def flip_one_byte(source: Path, target: Path) -> tuple[str, int]:
    """Copy an export, changing one byte (by one bit) in the payload of its middle receipt.

    Returns the receipt's name and the line it is on.
    """
    lines = source.read_bytes().splitlines(keepends=True)
    number = len(lines) // 2
    line = bytearray(lines[number])
    # The first letter of the entity's id: another letter, and JSON still.
    at = line.index(b'"entityId":"') + len(b'"entityId":"')
    line[at] ^= 0x01
    name: str = orjson.loads(lines[number])["id"]
    target.write_bytes(b"".join([*lines[:number], bytes(line), *lines[number + 1 :]]))
    return name, number + 1


def demonstrate(work: Path) -> list[tuple[str, str, float, float]]:
    """Go all the way; rows of (step, what came of it, seconds, receipts per second)."""
    data = ("--data-dir", "data")
    mutations = resources.files("provledger_cli") / "data" / MUTATIONS
    (work / MUTATIONS).write_bytes(mutations.read_bytes())
    lines = mutations.read_bytes().count(b"\n")
    rows: list[tuple[str, str, float, float]] = []

    def step(name: str, what: str, seconds: float, receipts: int = 0) -> None:
        rows.append((name, what, seconds, receipts / seconds if seconds else 0.0))

    up = run(work, "up", *data)
    step("start", f"{len(up['services'])} services, SQLite, local keys", up["seconds"])
    try:
        imported, rotated = import_and_rotate(work, data)
        if imported["appended"] != lines:
            raise DemoFailed(f"{imported['appended']} of {lines} mutations were recorded")
        step("import", f"{lines:,} mutations, signed and chained", imported["seconds"], lines)
        measured = rotated["measured"]
        if measured["failed"]:
            raise DemoFailed(f"calls failed during the rotation: {measured['failures']}")
        what = f"witness-1 to {NEW_KID} meanwhile: no failed call, longest gap "
        what += f"{measured['longest_gap_ms']:.0f} ms"
        step("rotate", what, rotated["seconds"])

        started_s = time.monotonic()
        status = run(work, "status", "--wait", "60", *data)
        if not status["all_anchored"]:
            raise DemoFailed("not everything was anchored")
        what = f"log of {status['log']['tree_size']:,}, held by the file:// sink"
        step("anchor", what, time.monotonic() - started_s)

        out = ("--out", "export.ndjson", "--head-out", "head.json")
        exported = run(work, "export", "--tenant", TENANT, *out, *data)
        receipts = exported["receipts"]
        what = f"{receipts:,} receipts, {exported['earlier_checkpoints'] + 1} checkpoints"
        step("export", what, exported["seconds"], receipts)
        run(work, "keys", "jwks", "--out", "jwks.json", *data)
        run(work, "export", "--tenant", "system", "--ledger", "keys", "--out", "keys.ndjson", *data)
        pin = (work / "data" / PIN_FILE).read_text().strip()
    finally:
        down = run(work, "down", *data)
    step("stop", "no service runs from here on", down["seconds"])

    ledger = ("--key-ledger", "keys.ndjson", "--pin", pin)
    offline = ("--keys", "jwks.json", "--head", "head.json", *ledger)
    kids = {orjson.loads(line).get("kid") for line in (work / "export.ndjson").open("rb")}
    if not {"witness-1", NEW_KID} <= kids:
        raise DemoFailed(f"the receipts were signed under {kids}, not under both keys")
    verdict = run(work, "verify", "export.ndjson", *offline)
    if verdict["status"] != "verified" or verdict["receipts"] != receipts:
        raise DemoFailed(f"the export is {verdict['status']}")
    held = sum(check["outcome"] == "holds" for check in verdict["checks"])
    step("verify", f"{receipts:,} receipts, {held} checks hold", verdict["seconds"], receipts)

    name, line = flip_one_byte(work / "export.ndjson", work / "broken.ndjson")
    _console.print(f"now one byte of line {line} is changed, by one bit, in broken.ndjson")
    started_s = time.monotonic()
    failure = run(work, "verify", "broken.ndjson", *offline, expect=DOES_NOT_HOLD)
    if failure["receipt"] != name or failure["line"] != line:
        raise DemoFailed(f"{name} was changed, but {failure['receipt']} was named")
    step("tamper", f"found: {failure['finding']}, line {line}", time.monotonic() - started_s)
    _console.print(f"verification names the broken receipt:\n  [red]{escape(name)}[/]")
    return rows


def show(rows: Sequence[tuple[str, str, float, float]]) -> None:
    """Print the summary."""
    table = Table(
        title="Provledger, end to end",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
    )
    table.add_column("step")
    table.add_column("what came of it", overflow="fold")
    table.add_column("seconds", justify="right")
    table.add_column("receipts/s", justify="right")
    for name, what, seconds, rate in rows:
        table.add_row(name, escape(what), f"{seconds:.2f}", f"{rate:,.0f}" if rate else "")
    _console.print(table)


def main() -> None:
    """Entry point; exit code 0 if all went as it should, 1 otherwise."""
    parser = argparse.ArgumentParser(prog="python -m provledger_cli.demo", description=__doc__)
    parser.add_argument("--keep", type=Path, help="work in this new directory and keep it")
    keep: Path | None = parser.parse_args().keep
    try:
        if keep is not None:
            keep.mkdir(parents=True)
            show(demonstrate(keep))
        else:
            with tempfile.TemporaryDirectory(prefix="provledger-demo-") as work:
                show(demonstrate(Path(work)))
    except (DemoFailed, OSError) as error:
        _console.print(f"[bold red]the demonstration failed:[/] {escape(str(error))}")
        sys.exit(1)
    _console.print("[bold green]All of it went as it should.[/]")


if __name__ == "__main__":
    main()
