"""`provledger log split-view`: does this file prove that a log showed two histories?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from provledger_cli import output
from provledger_cli.failures import DOES_NOT_HOLD, CommandError
from provledger_cli.options import JSONOption


def split_view(
    file: Annotated[
        Path,
        typer.Argument(
            envvar="PROVLEDGER_SPLIT_VIEW_FILE",
            help="Evidence, as `provledger monitor` saves it.",
            show_default=False,
        ),
    ],
    vkey: Annotated[
        list[str],
        typer.Option(
            "--vkey",
            envvar="PROVLEDGER_SPLIT_VIEW_VKEY",
            metavar="KEY",
            help="The log's verifier key (c2sp.org/signed-note). Repeatable.",
            show_default=False,
        ),
    ],
    tree_hash: Annotated[
        str,
        typer.Option(
            "--tree-hash",
            envvar="PROVLEDGER_SPLIT_VIEW_TREE_HASH",
            help="sha256, or blake3 for a log of suite blake3-all.",
        ),
    ] = "sha256",
    as_json: JSONOption = False,
) -> None:
    """Check evidence of a split view, offline, with nothing but the log's public key.

    Exit code 0: it is proven that the log signed two heads that exclude each other. 1: this file
    does not prove it. 2: it, or a key, cannot be read.

    Example: provledger log split-view split-view-1f2e.json --vkey KEY
    """
    from provledger import note
    from provledger.errors import VerificationError
    from provledger.hashing import blake3, sha256
    from provledger.split_view import MAX_BYTES, parse_split_view

    output.use_json(as_json)
    if tree_hash not in ("sha256", "blake3"):
        raise CommandError("--tree-hash is sha256 or blake3")
    keys = [note.parse_vkey(text) for text in vkey]
    with file.open("rb") as opened:
        evidence = parse_split_view(opened.read(MAX_BYTES + 1))
    try:
        older, newer = evidence.verify(keys, blake3 if tree_hash == "blake3" else sha256)
    except VerificationError as error:
        if as_json:
            output.document({"holds": False, "message": error.message})
        else:
            output.show(f"[bold red]not proven[/]: {output.literal(error.message)}")
        raise typer.Exit(DOES_NOT_HOLD) from None
    heads = [{"tree_size": head.size, "root": head.root.hex()} for head in (older, newer)]
    if as_json:
        output.document({"holds": True, "origin": older.origin, "heads": heads})
        return
    origin = output.literal(older.origin)
    output.show(f"[bold red]a split view is proven[/]: {origin} signed both of")
    rows = [(str(head["tree_size"]), str(head["root"])) for head in heads]
    output.show(output.table("", ["tree size>", "root"], rows))
