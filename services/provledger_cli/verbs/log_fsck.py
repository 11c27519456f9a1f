"""`provledger log fsck`: does a log hang together, and does it hold what the ledgers hold?"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger_cli import output
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD, CommandError
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
    from provledger.errors import LogDamagedError
    from provledger.keyset import KeySet
    from provledger_cli.connect import Target
    from provledger_cli.embedded.datadir import DataDir
    from provledger_cli.tlog.fsck import Checked, Progress
    from provledger_cli.tlog.stored import LedgerRows


def fsck(
    tiles: Annotated[
        str,
        typer.Option(
            "--tiles",
            envvar="PROVLEDGER_FSCK_TILES",
            metavar="DIR|URL",
            help="Where the log's files are (c2sp.org/tlog-tiles), if not in the data directory: a "
            "directory, a URL (such as the gateway's), or s3://bucket/prefix/logs/UID.",
            show_default=False,
        ),
    ] = "",
    log: Annotated[
        str,
        typer.Option(
            "--log",
            envvar="PROVLEDGER_FSCK_LOG",
            metavar="UID",
            help="Only the log of this uid, in hex. Default: all of the data directory, or with "
            "--tiles the anchor's default log.",
            show_default=False,
        ),
    ] = "",
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            envvar="PROVLEDGER_FSCK_JWKS",
            help="JWK Set to check the checkpoints' signatures with. Default: what the running "
            "keys service publishes, or else what the stored key ledger says, from its pin on.",
            show_default=False,
        ),
    ] = None,
    pin: Annotated[
        str,
        typer.Option(
            "--pin",
            envvar="PROVLEDGER_KEY_PIN",
            metavar="JKT",
            help="RFC 7638 thumbprint, in hex, of a key of the key ledger's genesis, or a file "
            "(*.pin) with it: take the keys from the stored key ledger from there on. Default, "
            "where no service runs: the data directory's own key-ledger.pin.",
            show_default=False,
        ),
    ] = "",
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 60.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Rehash every tile, entry bundle and checkpoint of a log, and compare with the ledgers' rows.

    Every hash is made again from the entries; every entry must be the receipt its ledger has, and
    every receipt that counts as logged must be there. In a data directory, services may run or not,
    and heads that are not published yet are checked too. With --tiles, the published files are read
    there and the rows come from the services. Over https, a certificate of a private CA is taken if
    SSL_CERT_FILE names a PEM file with that CA.

    In a data directory, the anchor's rows of logs, ledgers and runs must be those of the entries,
    each ledger must have the name and the log that its genesis states, and what was published, or a
    sink has, must be signed. The rest of what is stored of a ledger, its own head with it, is for
    provledger verify; policies, and the evidence of sinks, are looked at by neither.

    Exit code 0: it holds. 1: something does not, and the first bad file or entry is named. 2: it
    could not be told: something is away, or there were no keys for the signatures.

    Example: provledger log fsck --data-dir ./ledger
    """
    from provledger.errors import LogDamagedError

    output.use_json(as_json)
    started_s = time.monotonic()
    if endpoint and not tiles:
        raise CommandError(
            "the files of a log elsewhere are not reached through its services",
            hint="name them with --tiles: a directory, or the URL under which they are published",
        )
    if pin and (tiles or keys):
        raise CommandError("--pin is for the key ledger of a data directory", hint="leave it out")
    known = None if keys is None else _read_keys(keys)
    found: list[Checked] = []
    try:
        with output.progress("entries") as bar:
            task = bar.add_task("checking", total=None)

            def on_progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            if tiles:
                from provledger_cli.connect import target

                where = target(
                    data_dir, endpoint, tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
                )
                found.append(_published(where, tiles, log, known, timeout, on_progress))
            else:
                _stored(data_dir, log, known, pin, on_progress, found)
    except LogDamagedError as error:
        _say_damage(error, as_json)
        raise typer.Exit(DOES_NOT_HOLD) from None
    signed = all(each.signatures for each in found)
    if as_json:
        output.document(_document(found, signed, time.monotonic() - started_s))
    else:
        _show(found, signed, time.monotonic() - started_s)
    if not signed:
        raise typer.Exit(COULD_NOT_TELL)


def _published(
    where: Target,
    place: str,
    log: str,
    keys: KeySet | None,
    timeout_s: float,
    on_progress: Progress,
) -> Checked:
    import asyncio

    from provledger.client.convert import suite_from_pb
    from provledger.hashing import suite
    from provledger_cli.connect import Remote
    from provledger_cli.tlog import fsck as work
    from provledger_cli.tlog.logfiles import open_files

    with asyncio.Runner() as runner:
        remote = Remote(where, timeout_s=timeout_s)
        try:
            rows = work.ServiceRows(runner, remote)
            described = rows.log(f"logs/{log or '-'}")
            ends = rows.ends(described.origin)
            # Asked for again: what counts as logged is covered by now.
            least_size = rows.log(described.name).tree_size
            return work.check_published(
                open_files(place),
                described.origin,
                suite(suite_from_pb(described.suite)).tree,
                least_size,
                ends,
                rows,
                rows.keys() if keys is None else keys,
                on_progress,
            )
        finally:
            runner.run(remote.__aexit__(None, None, None))


def _stored(
    path: Path | None,
    log: str,
    keys: KeySet | None,
    pin: str,
    on_progress: Progress,
    found: list[Checked],
) -> None:
    from provledger import logdirs
    from provledger.errors import LogDamagedError
    from provledger_cli.embedded import config as configs
    from provledger_cli.embedded.datadir import DataDir
    from provledger_cli.tlog import fsck as work
    from provledger_cli.tlog.logfiles import DirFiles, elsewhere
    from provledger_cli.tlog.stored import AnchorRows, LedgerRows, open_database

    directory = DataDir.at(path)
    config = configs.load(directory)
    if config is None:
        raise CommandError(
            f"{directory.path} is not a data directory", hint="name one with --data-dir"
        )
    if keys is None and not pin:
        keys = _published_keys(directory)
    anchor = AnchorRows(open_database(directory, config, "anchor"))
    rows = LedgerRows(open_database(directory, config, "ledger"))
    try:
        if keys is None:
            keys = _replayed_keys(directory, rows, pin)
        logs = directory.tiles / "logs"
        # The directory first: a log gets its row before that.
        there = [uid for uid in logdirs.listed(logs) if log in ("", uid.hex())]
        known = anchor.log_uids()
        forgotten = None
        try:
            work.check_known(logs, there, known)
        except LogDamagedError as error:
            # The others are checked all the same.
            output.say(output.literal(error.message))
            forgotten = error
        uids = [uid for uid in known if log in ("", uid.hex())]
        if not uids and forgotten is None:
            raise CommandError("there is no such log", hint="leave --log out to check all of them")
        for uid in uids:
            files = DirFiles(logs / uid.hex())
            place = elsewhere(files.root)
            if place:
                raise forgotten or CommandError(
                    f"the files of logs/{uid.hex()} are in {place}",
                    hint=f"with services running: --tiles '{place}' --log {uid.hex()}",
                )
            try:
                found.append(work.check_stored(anchor, uid, files, rows, keys, on_progress))
            except LogDamagedError as error:
                error.log = f"logs/{uid.hex()}"
                raise
        if forgotten is not None:
            raise forgotten
    finally:
        anchor.close()
        rows.close()


def _published_keys(directory: DataDir) -> KeySet | None:
    """What the keys service of a data directory publishes, if it runs."""
    from provledger.errors import ProvledgerError
    from provledger.keyset import KeySet
    from provledger_cli.connect import Remote, run_async, target

    async def ask() -> bytes:
        async with Remote(target(directory.path), timeout_s=5.0) as remote:
            return await remote.client.jwks()

    if directory.supervisor_pid() is None:
        return None
    try:
        return KeySet.parse(run_async(ask()))
    except ProvledgerError:
        return None


def _replayed_keys(directory: DataDir, rows: LedgerRows, pin: str) -> KeySet | None:
    """What the stored key ledger says, replayed from a pin on; None without the one or the other.

    The walk misses a receipt that is not there, and the replay an event that is not signed or does
    not follow; so none that is awkward, such as a revocation, can be passed over.

    Raises:
        LogDamagedError: an event of it is not signed as it must be.
    """
    from provledger.errors import InputError, LogDamagedError, VerificationError
    from provledger.key_events import EventType, parse_signed
    from provledger.key_history import replay
    from provledger_cli.embedded.datadir import PIN_FILE
    from provledger_cli.options import read_pin

    file = directory.path / PIN_FILE
    stored = rows.key_events()
    if not stored or not (pin or file.is_file()):
        return None
    pinned = read_pin(pin or str(file))
    if any(kind not in {each.value for each in EventType} for kind, _ in stored):
        # Of a later version, or changed: whatever it says of keys, we would not know.
        return None
    try:
        return replay((parse_signed(payload) for _, payload in stored), pinned).key_set()
    except (InputError, VerificationError) as error:
        raise LogDamagedError(
            f"the key ledger does not hold: {error}", check="key_ledger"
        ) from error


def _read_keys(path: Path) -> KeySet:
    from provledger.keyset import MAX_JWKS_BYTES, KeySet

    with path.open("rb") as file:
        return KeySet.parse(file.read(MAX_JWKS_BYTES + 1))


def _document(found: list[Checked], signed: bool, seconds: float) -> dict[str, Any]:
    return {
        "holds": True if signed else None,
        "logs": [
            {
                "origin": each.origin,
                "tree_size": each.size,
                "published_size": each.published_size,
                "ledgers": each.ledgers,
                "entry_bundles": each.bundles,
                "hash_tiles": each.tiles,
                "partial_tiles": each.partials,
                "checkpoints": each.heads,
                "unvouched_checkpoints": each.unvouched,
                "signatures": "hold" if each.signatures else "not_checked",
            }
            for each in found
        ],
        "seconds": round(seconds, 3),
    }


def _show(found: list[Checked], signed: bool, seconds: float) -> None:
    rows = [
        (
            each.origin,
            f"{each.size:,}",
            f"{each.ledgers:,}",
            f"{each.bundles:,}",
            f"{each.tiles:,}",
            f"{each.partials:,}",
            f"{each.heads:,}",
        )
        for each in found
    ]
    columns = ["log", "entries>", "ledgers>", "bundles>", "tiles>", "partial ones>", "heads>"]
    output.show(output.table("", columns, rows))
    for each in found:
        if each.unvouched:
            output.say(
                f"{each.unvouched:,} of the heads of {output.literal(each.origin)} are signed by a "
                "revoked or retired key alone, which does not stand for them: the log has those "
                "very trees"
            )
    if signed:
        output.show(f"[bold green]holds[/]: every hash, row and head, {output.seconds(seconds)}")
    else:
        output.show("[bold yellow]hashes and rows hold[/]; signatures were not checked")
        output.say("[bold]next:[/] give the public keys with --keys")


def _say_damage(error: LogDamagedError, as_json: bool) -> None:
    if as_json:
        output.document(
            {
                "holds": False,
                "log": error.log or None,
                "check": error.check,
                "path": error.path or None,
                "log_index": error.log_index,
                "message": error.message,
            }
        )
        return
    output.show("[bold red]does not hold[/]")
    where = "" if error.log_index is None else f"log index {error.log_index}"
    rows = [
        ("log", error.log),
        ("file", error.path),
        ("entry", where),
        ("check", error.check),
        ("why", error.message),
    ]
    output.show(output.card("", rows))
