"""The work behind `restore`: a backup becomes a data directory, or nothing is written at all.

1. the whole archive is read and checked against its manifest, before anything is written;
2. each log is marked as restored, so that the anchor signs nothing until its sinks have confirmed
   that they hold nothing later (`anchor_svc.restored`);
3. everything is put into a directory beside the target, and databases are checked as such;
4. each log is recomputed from its entries and compared with tiles, heads and ledger rows
   (`log fsck`), as far as that can be told without the services;
5. all of it is synced, and the directory takes its place by one rename, still called unfinished
   (`scratch`): no command uses it;
6. PostgreSQL: the schemas, filled under other names, get theirs by one transaction
   (`restore_postgres`);
7. the directory is not called unfinished any more.

Killed at any point, the same command again begins anew, or does the seventh step if it was all that
was left; and as long as nobody has used what is there, it answers what the first one could not say
any more. Before the sixth there is nothing that a service would find; behind the fifth, its mark.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import sqlalchemy as sa

from provledger.db import as_storage_error
from provledger.db.migrate import revisions
from provledger.errors import LogDamagedError
from provledger_cli import scratch
from provledger_cli.backups import archive, key_files, sound
from provledger_cli.backups.contents import SERVICES
from provledger_cli.backups.manifests import Manifest
from provledger_cli.backups.moment import REVISION
from provledger_cli.backups.restore_postgres import Schemas, broken, filled, origin, settled
from provledger_cli.embedded import config as configs
from provledger_cli.embedded.config import Config
from provledger_cli.embedded.datadir import DataDir, write_atomically, write_json
from provledger_cli.failures import CommandError
from provledger_cli.placing import sync_directory
from provledger_cli.tlog import fsck as fscks
from provledger_cli.tlog.stored import AnchorRows, LedgerRows, open_database

MARKER: Final = "restored.json"
_HEX: Final = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored. missing_keys: private keys that have to be brought by other means.

    unknown_kids: keys that signed receipts and are not in the registry, which has to be rebuilt.
    """

    manifest: Manifest
    checked: tuple[fscks.Checked, ...]
    missing_keys: tuple[str, ...]
    unknown_kids: tuple[str, ...]
    accepted: bool


def restore(
    path: Path,
    target: DataDir,
    *,
    database_url: str,
    sinks: tuple[str, ...],
    accepted: bool,
    on_progress: Callable[[str], None] = lambda what: None,
) -> Restored:
    """Make `target`, which must not be there yet, out of a backup.

    An empty directory makes room for it; a link stays, and leads to it. What a restore of the same
    backup has left there, and nobody has used since, is what was asked for.

    sinks: instead of those in the backup, if any. accepted: that no sink can confirm it.

    Raises:
        CommandError: exit code 1 for a backup that is damaged or does not hang together.
        StatusError: a database cannot be reached or used.
    """
    configs.check_sinks(sinks)
    target = _place(target)
    unfinished = scratch.is_unfinished(target.path)
    if not unfinished and not _marks(target):
        _refuse_used(target.path)
    on_progress("checking the archive")
    manifest = archive.verify(path)
    _check_build(path, manifest)
    postgres = manifest.about.get("database") != "sqlite"
    if postgres != bool(database_url):
        raise CommandError(
            f"this is a backup of {manifest.about.get('database')}",
            hint="give --database-url for a PostgreSQL backup, and for no other",
        )
    try:
        earlier = _finish_earlier if unfinished else _done_earlier
        done = earlier(manifest, target, database_url, sinks, accepted, on_progress)
        return done or _make(path, manifest, target, database_url, sinks, accepted, on_progress)
    except OSError as error:
        raise CommandError(
            f"the restore could not be done: {error.filename or target.path}: "
            f"{error.strerror or error}",
            hint=scratch.advice(error) or "make room or mend the disk, and run it again",
        ) from error
    except sa.exc.SQLAlchemyError as error:
        raise as_storage_error(error) or broken(type(error).__name__) from error


def _refuse_used(path: Path) -> None:
    if path.exists() and any(path.iterdir()):
        raise CommandError(
            f"{path} is not empty: nothing is restored over what is there",
            hint="name another --data-dir, or move that one away",
        )


def _place(target: DataDir) -> DataDir:
    """Where the directory will really be: a rename takes the place of no link and no mount."""
    path = target.path
    place = DataDir(Path(os.path.realpath(path))) if path.is_symlink() else target
    if os.path.ismount(place.path):
        raise _mounted(place.path)
    return place


def _mounted(path: Path) -> CommandError:
    return CommandError(
        f"{path} is where a file system is mounted: no directory can take its place",
        hint=f"name a directory inside it: --data-dir {path / 'data'}",
    )


def _check_build(path: Path, manifest: Manifest) -> None:
    """Refuse databases that this build could not open."""
    for service in SERVICES:
        if manifest.about["revisions"][service] not in revisions(f"{service}_svc.migrations"):
            raise CommandError(
                f"{path} was made by a newer version ({manifest.about.get('version')}): its "
                f"{service} database is not known to this one",
                hint="restore it with that version, or a later one",
            )


def _make(
    path: Path,
    manifest: Manifest,
    target: DataDir,
    database_url: str,
    sinks: tuple[str, ...],
    accepted: bool,
    on_progress: Callable[[str], None],
) -> Restored:
    with ExitStack() as opened:
        opened.enter_context(scratch.parents(target.path))
        directory = opened.enter_context(scratch.beside(target.path))
        staged = DataDir(directory)
        staged.make()
        _mark(staged, manifest, accepted)
        on_progress("writing files")
        config = _write_files(path, manifest, staged, database_url, sinks)
        schemas: Schemas | None = None
        if database_url:
            on_progress("filling the database")
            uid = scratch.uid(directory)
            schemas = opened.enter_context(filled(path, manifest, database_url, uid, staged.run))
        else:
            _check_sqlite(staged)
        names = schemas.names if schemas else {}
        _check_revisions(staged, manifest, config, names)
        on_progress("recomputing the logs")
        checked = _check_logs(staged, manifest, config, names)
        missing, unknown = _check_keys(staged, config, names)
        scratch.sync_tree(directory)
        _put_in_place(directory, target.path, schemas)
    return Restored(manifest, checked, missing, unknown, accepted)


def _put_in_place(directory: Path, target: Path, schemas: Schemas | None) -> None:
    try:
        os.rename(directory, target)  # takes the place of nothing but an empty directory
    except OSError as error:
        if error.errno == errno.EBUSY:  # `mount --bind` of the same file system is seen only now
            raise _mounted(target) from error
        raise
    try:
        sync_directory(target.parent)
        if schemas is not None:
            schemas.publish()
    except BaseException as error:
        if schemas is None or not schemas.committing:
            scratch.remove_own(target)
            raise
        # What the services may find must not be without its mark: it is left for the next try.
        raise CommandError(
            "whether the database took the last step is not known",
            hint="run the same command again: it finishes what was done",
        ) from error
    scratch.finish(target)


def _finish_earlier(
    manifest: Manifest,
    target: DataDir,
    database_url: str,
    sinks: tuple[str, ...],
    accepted: bool,
    on_progress: Callable[[str], None],
) -> Restored | None:
    """Take the last step of an earlier restore if only that was left; else make room."""
    with scratch.claimed(target.path) as claimed:
        if claimed is None:
            _refuse_used(target.path)  # it has ended since it was looked at
            return None
        config = _all_but_finished(target, manifest, database_url, sinks, accepted)
        if config is None:
            claimed.take_out()
            return None
        restored = _looked_at_again(manifest, target, config, on_progress)
        scratch.finish(target.path)
    return restored


def _done_earlier(
    manifest: Manifest,
    target: DataDir,
    database_url: str,
    sinks: tuple[str, ...],
    accepted: bool,
    on_progress: Callable[[str], None],
) -> Restored | None:
    """What an earlier restore did that ended, or was killed before it could say so; None if none.

    Raises:
        CommandError: what is there is of another backup, or was used, or made with other arguments.
    """
    marks = _marks(target)
    held = {path.parent.name for path in marks} == set(_log_uids(manifest))
    ours = all(_of_backup(path) == manifest.digest for path in marks)
    if not marks or not held or not ours or target.endpoints.exists():
        _refuse_used(target.path)
        return None
    kept = configs.read(target.config)
    if (
        kept is None
        or kept.database_url != database_url
        or (sinks and sinks != kept.sinks)
        or (accepted and not _is_accepted(target))
    ):
        raise CommandError(
            f"{target.path} is not empty: a restore of this backup ended there, with other "
            "arguments",
            hint="use it as it is, or give the same arguments again to see what it did; or name "
            "another --data-dir",
        )
    return _looked_at_again(manifest, target, kept, on_progress)


def _looked_at_again(
    manifest: Manifest, target: DataDir, config: Config, on_progress: Callable[[str], None]
) -> Restored:
    """What a restore made that did not come to say so."""
    on_progress("recomputing the logs")
    checked = _check_logs(target, manifest, config, {})
    missing, unknown = _check_keys(target, config, {})
    return Restored(manifest, checked, missing, unknown, _is_accepted(target))


def _all_but_finished(
    target: DataDir,
    manifest: Manifest,
    database_url: str,
    sinks: tuple[str, ...],
    accepted: bool,
) -> Config | None:
    """The configuration of an earlier restore with only the last step left; None if it may go."""
    kept = configs.read(target.config)
    uid = scratch.uid(target.path)
    made = settled(kept.database_url, uid) if kept is not None and kept.database_url else ()
    if kept is not None and made:
        # It belongs to those schemas, and must not go while they are there.
        if kept.database_url != database_url:
            raise _other(target, "filled another database", "--database-url")
        if set(made) != {origin(uid, manifest)}:
            raise _other(target, "was of another backup", "backup")
        if sinks and sinks != kept.sinks:
            raise _other(target, f"was told of other sinks ({' '.join(kept.sinks)})", "--sink")
        if accepted and not _is_accepted(target):
            raise _other(target, "was to wait for sinks", "arguments, without --accept-unconfirmed")
        return kept
    # A log without its mark was confirmed by the sinks, and may have gone on.
    held = all((log / MARKER).exists() for log in target.tiles.glob("logs/*"))
    if target.endpoints.exists() or not held:
        raise CommandError(
            f"{target.path} was used, though its restore had not ended: it is not removed",
            hint=f"look at it with care; if it is what you want, remove {scratch.UNFINISHED} there",
        )
    return None


def _other(target: DataDir, what: str, give: str) -> CommandError:
    return CommandError(
        f"an earlier restore into {target.path} is all but done, and {what}",
        hint=f"give the same {give} to finish it; or remove the directory, and from its database "
        "the schemas keys, anchor and ledger",
    )


def _is_accepted(target: DataDir) -> bool:
    """Whether it was said that no sink can confirm it; False if the sinks have confirmed it."""
    # As `_mark` writes it.
    return any(b'"accepted": true' in mark.read_bytes() for mark in _marks(target))


def _marks(target: DataDir) -> list[Path]:
    """The marks of logs that no sink has confirmed yet."""
    return list(target.tiles.glob(f"logs/*/{MARKER}"))


def _of_backup(mark: Path) -> str:
    """The digest of the backup that a log was restored from; "" where its mark does not say."""
    try:
        return str(json.loads(mark.read_bytes())["backup"])
    except (ValueError, LookupError, TypeError):
        return ""


# --- files ---------------------------------------------------------------------------------------


def _write_files(
    path: Path,
    manifest: Manifest,
    staged: DataDir,
    database_url: str,
    sinks: tuple[str, ...],
) -> Config:
    def place(name: str) -> IO[bytes] | None:
        if name.endswith(".copy"):
            return None  # goes into the database
        file = staged.path / name
        if file.exists():
            raise broken(f"it holds {name}, which is for us to write")
        try:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise broken(f"it holds {name}, and a file where that needs a directory") from error
        opened = file.open("xb")
        private = not name.startswith("tiles/") and name != "key-ledger.pin"
        file.chmod(0o600 if private else 0o644)
        return opened

    archive.extract(path, manifest, place)
    try:
        kept = configs.read(staged.config)
    except CommandError as error:
        raise broken("its config.json is not a configuration") from error
    if kept is None:
        raise broken("it holds no config.json")
    config = Config(database_url, sinks or kept.sinks, kept.fips)
    write_json(
        staged.config,
        {
            "database_url": config.database_url,
            "sinks": list(config.sinks),
            "fips": config.fips,
        },
    )
    return config


def _mark(staged: DataDir, manifest: Manifest, accepted: bool) -> None:
    """Leave word for the anchor, in the directory of each log; a log cannot be without."""
    for uid in _log_uids(manifest):
        directory = staged.tiles / "logs" / uid
        directory.mkdir(parents=True, exist_ok=True)
        value = {
            "v": "1",
            "takenAtNs": manifest.about["takenAtNs"],
            "backup": manifest.digest,
            "accepted": accepted,
        }
        write_atomically(directory / MARKER, json.dumps(value).encode() + b"\n", mode=0o644)


def _log_uids(manifest: Manifest) -> list[str]:
    found = [str(log["uid"]) for log in manifest.about["logs"]]
    if not all(_HEX.fullmatch(uid) for uid in found):
        raise broken("the uid of a log is none")
    return found


def _check_keys(
    staged: DataDir, config: Config, schemas: Mapping[str, str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Files of `local:` keys in the registry that are away; kids of receipts that it lacks."""
    keys = _all(staged, config, "keys", schemas, key_files.KEYS)
    rows = LedgerRows(open_database(staged, config, "ledger", schemas.get("ledger")))
    try:
        signed = rows.kids()
    finally:
        rows.close()
    missing = key_files.missing(staged.keys, [row.uri for row in keys])
    return missing, tuple(sorted(signed - {row.kid for row in keys}))


def _check_revisions(
    staged: DataDir, manifest: Manifest, config: Config, schemas: Mapping[str, str]
) -> None:
    for service in SERVICES:
        found = [row.version_num for row in _all(staged, config, service, schemas, REVISION)]
        if found != [manifest.about["revisions"][service]]:
            raise broken(f"the database of the {service} service is of another version")


def _all(
    staged: DataDir, config: Config, service: str, schemas: Mapping[str, str], query: sa.TextClause
) -> Sequence[Any]:
    engine = open_database(staged, config, service, schemas.get(service))
    try:
        with engine.connect() as connection:
            return connection.execute(query).all()
    finally:
        engine.dispose()


# --- SQLite --------------------------------------------------------------------------------------


def _check_sqlite(staged: DataDir) -> None:
    for service in SERVICES:
        path = staged.databases / f"{service}.sqlite3"
        if not path.is_file():
            raise broken(f"the database of the {service} service is not in it")
        if wrong := sound.fault(path):
            raise broken(f"{path.name} is no whole database of a service: {wrong}")


# --- does it hang together? ----------------------------------------------------------------------


def _check_logs(
    staged: DataDir, manifest: Manifest, config: Config, schemas: Mapping[str, str]
) -> tuple[fscks.Checked, ...]:
    def look(anchor: AnchorRows) -> None:
        if {uid.hex() for uid in anchor.log_uids()} != set(_log_uids(manifest)):
            raise broken("its logs are not those in its database")

    try:
        return sound.check_logs(staged, config, schemas, look)
    except LogDamagedError as error:
        raise broken(error.message) from error
