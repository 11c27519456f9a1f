"""`config.json`: what an embedded installation was set up with, kept from the first `up` on.

A data directory stays with the database it was started on: its keys and its ledgers belong
together. How that is reached may change: its user, its password, its TLS. The file may hold a
database password, and so has mode 0600 like everything here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from provledger_cli.embedded import moved
from provledger_cli.embedded.datadir import PIN_FILE, DataDir, write_json
from provledger_cli.failures import CommandError
from provledger_cli.scratch import is_unfinished

KEYS = {
    "witness": "witness-1",
    "checkpoint": "checkpoint-1",
    "head": "head-1",
    "receipt": "receipt-1",
}
"""First key of each purpose: its kid, and the name of its file without `.pem`."""

OPTIONAL_KEYS = ("receipt",)
"""Purposes that an installation may be without: made before there was such a thing."""

RECOVERY_KID = "recovery-1"
"""The key that endorses key events when no other can; named in the key ledger's genesis."""

SINK_SCHEMES = ("file", "http", "https", "s3")
"""Schemes of the anchor's own sinks; those of others are entry points of `SINK_GROUP`."""

SINK_GROUP = "provledger.sinks"


@dataclass(frozen=True, slots=True)
class Config:
    """`database_url` is "" for SQLite files in the data directory; `fips`: all in FIPS mode.

    home: the path of the data directory that sinks inside it are named by; "" where none is kept.
    """

    database_url: str
    sinks: tuple[str, ...]
    fips: bool = False
    home: str = field(default="", compare=False)

    @property
    def database(self) -> str:
        """The kind of database, which may be shown."""
        return self.database_url.partition(":")[0].partition("+")[0] or "sqlite"

    def url(self, data_dir: DataDir, service: str) -> str:
        """The SQLAlchemy URL of a service's database."""
        if self.database_url:
            # One database for all: each service has a schema of its own in it.
            return self.database_url
        path = f"{data_dir.databases / service}.sqlite3"
        if "?" not in path and "%" not in path:
            return f"sqlite:///{path}"
        # Signs with a meaning in a URL. Hardly a path has them, and the import takes 0.2 s.
        from sqlalchemy.engine import URL

        return URL.create("sqlite", database=path).render_as_string(hide_password=False)


def load(data_dir: DataDir) -> Config | None:
    """What was kept, or None before the first `up`; sinks inside the directory are where it is.

    Raises:
        CommandError: a broken file, or a directory whose restore has not ended.
    """
    if is_unfinished(data_dir.path):
        raise CommandError(
            f"the restore of {data_dir.path} has not ended: nothing may use it yet",
            hint="run the same `provledger restore` again",
        )
    kept = read(data_dir.config)
    if kept is None:
        return None
    home = moved.home(data_dir, kept.home, kept.sinks)
    if moved.is_same(home, data_dir.path):
        return replace(kept, home=str(home))
    sinks = moved.follow(kept.sinks, home, data_dir.path)
    return replace(kept, sinks=sinks, home=str(data_dir.path))


def read(path: Path) -> Config | None:
    """What a file holds, sinks as they stand there, or None if it is not there.

    Earlier versions kept several in one text. They are parted as the anchor parts its setting.

    Raises:
        CommandError: it is a broken one.
    """
    try:
        value: Any = json.loads(path.read_text("utf-8"))
        return Config(
            database_url=str(value["database_url"]),
            sinks=tuple(
                part for sink in value["sinks"] for part in str(sink).replace(",", " ").split()
            ),
            fips=bool(value.get("fips", False)),
            home=str(value.get("data_dir", "")),
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise CommandError(
            f"{path} is not a configuration",
            hint='it should look like {"database_url": "", "sinks": ["file:///..."]}',
        ) from None


def settle(
    data_dir: DataDir, database_url: str, sinks: Sequence[str], fips: bool = False
) -> Config:
    """Join what is kept with what `up` was given, and keep the result.

    Raises:
        CommandError: as `join`.
    """
    config = join(data_dir, database_url, sinks, fips)
    keep(data_dir, config)
    return config


def join(data_dir: DataDir, database_url: str, sinks: Sequence[str], fips: bool = False) -> Config:
    """Join what is kept with what `up` was given.

    Raises:
        CommandError: for another database than the one kept, or FIPS mode where keys are there; for
            a URL that no service could use.
    """
    kept = load(data_dir)
    home = Path(kept.home) if kept is not None else data_dir.path
    given = moved.follow(sinks, data_dir.path, home)
    if database_url and (kept is None or database_url != kept.database_url):
        _check_url(database_url)
    if kept is None or not was_used(data_dir):
        default_sinks = (data_dir.anchors.as_uri(),)
        before = (kept.database_url, kept.sinks) if kept is not None else ("", default_sinks)
        was_fips = kept is not None and kept.fips
        return Config(
            database_url or before[0], given or before[1], fips or was_fips, home=str(home)
        )
    if fips and not kept.fips:
        raise CommandError(
            f"{data_dir.path} was set up without FIPS mode: its keys and ledgers do not fit",
            hint="choose another --data-dir",
        )
    if database_url and not _same_database(database_url, kept.database_url):
        raise CommandError(
            f"{data_dir.path} was set up with another database ({kept.database})",
            hint="leave --database-url out, or choose another --data-dir for the other database",
        )
    return replace(kept, database_url=database_url or kept.database_url, sinks=given or kept.sinks)


def keep(data_dir: DataDir, config: Config) -> None:
    """Keep a configuration, if it is not what is kept already."""
    kept = read(data_dir.config)
    if config == kept and config.home == kept.home:
        return
    write_json(
        data_dir.config,
        {
            "database_url": config.database_url,
            "sinks": list(config.sinks),
            "fips": config.fips,
            "data_dir": config.home,
        },
    )


def _check_url(url: str) -> None:
    from provledger.db.engine import read_url
    from provledger.settings import ConfigError

    try:
        read_url(url)
    except ConfigError as error:
        raise CommandError(
            str(error), hint="as in --database-url postgresql+psycopg://user@host/name"
        ) from None


def check_sinks(sinks: Sequence[str]) -> None:
    """Refuse what the anchor has no sink for, as far as the URI's scheme tells.

    Raises:
        CommandError: naming the first that is none.
    """
    from importlib.metadata import entry_points
    from urllib.parse import quote, urlsplit

    for uri in sinks:
        # Services take their sinks as a list in one text.
        sign = next((sign for sign in uri if sign == "," or sign.isspace()), "")
        if sign:
            raise CommandError(
                f"--sink {uri!r} has a {'comma' if sign == ',' else 'blank'} in it",
                hint=f"write {quote(sign)} for it, and --sink once for each",
            )
        try:
            scheme = urlsplit(uri).scheme
        except ValueError:
            scheme = ""
        if scheme in SINK_SCHEMES or (scheme and entry_points(group=SINK_GROUP, name=scheme)):
            continue
        raise CommandError(
            f"--sink {uri!r} is no sink: known are "
            + ", ".join(f"{each}:" for each in SINK_SCHEMES),
            hint="give a URI, such as file:///mnt/elsewhere",
        )


def _same_database(url: str, kept: str) -> bool:
    """Whether two URLs lead to one database, as far as that can be seen without asking it."""
    if url == kept:
        return True
    place = _place(url)
    return place is not None and place == _place(kept)


def _place(url: str) -> tuple[Any, ...] | None:
    """Server and database of a PostgreSQL URL, None for any other and for what is none.

    By what the driver is given: what a URL says behind its `?` wins over what it says before.
    """
    from sqlalchemy.exc import ArgumentError

    from provledger.db.engine import read_url
    from provledger.settings import ConfigError

    try:
        parsed = read_url(url)
        if parsed.get_backend_name() != "postgresql":
            return None
        _, given = parsed.get_dialect()().create_connect_args(parsed)
    except (ConfigError, ArgumentError, ValueError):
        return None
    said = [given.get(name) or None for name in ("host", "hostaddr", "service", "servicefile")]
    # libpq takes the user's name where no database is named.
    return (*said, str(given.get("port") or 5432), given.get("dbname") or given.get("user"))


def was_used(data_dir: DataDir) -> bool:
    """Whether anything may have been recorded; else a first attempt may be corrected.

    The keys alone do not tell: those of a restored directory may be on their way to it, and others
    may all have gone into a KMS.
    """
    return (
        any(data_dir.keys.glob("*.pem"))
        or (data_dir.path / PIN_FILE).exists()
        or any((data_dir.tiles / "logs").glob("*"))
    )
