"""A data directory: everything one embedded installation keeps, and where.

    endpoints.json     where the services are; written by the supervisor, read by every command
    config.json        database and sinks, as first given to `up`, and where this directory was
    supervisor.lock    held by the supervisor as long as it lives; its pid inside
    starting.lock      held by a supervisor for the moment in which it becomes one
    services.lock      held by the supervisor and every service: none is left once it is free
    db/                SQLite files, one for each service
    keys/              private keys (mode 0700, files 0600)
    anchors/           the default file:// sink
    tiles/             what the log serves (C2SP layout)
    logs/              one log file for each service and for the supervisor
    run/               ready files
    key-ledger.pin     thumbprint that verifiers pin the key ledger by
    import.key         random key that makes request ids for imported lines

Trust: whoever can read this directory can sign in its name; whoever can write it can put receipts
that verification will find broken. It is made with mode 0700.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from provledger_cli.failures import CommandError
from provledger_cli.placing import replacing, sync_directory, try_lock

SERVICES = ("keys", "witness", "anchor", "ledger")
"""The services over gRPC, in the order in which they are listed everywhere."""

GATEWAY = "gateway"
"""The service over HTTP, which comes last and only where its extra is installed."""

PIN_FILE = "key-ledger.pin"
IMPORT_KEY_BYTES = 32
_SCRATCH_DIGITS: Final = 12


def default_path() -> Path:
    """The user's own data directory (XDG Base Directory Specification)."""
    base = os.environ.get("XDG_DATA_HOME", "")
    # The specification: a path that is not absolute is to be ignored.
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "share"
    return root / "provledger"


@dataclass(frozen=True, slots=True)
class DataDir:
    """The paths below one data directory; `path` is absolute."""

    path: Path

    @classmethod
    def at(cls, path: Path | None) -> DataDir:
        """The data directory at `path`, or the user's own."""
        return cls((default_path() if path is None else path.expanduser()).absolute())

    @property
    def endpoints(self) -> Path:
        """Where the services are."""
        return self.path / "endpoints.json"

    @property
    def config(self) -> Path:
        """Database and sinks."""
        return self.path / "config.json"

    @property
    def keys(self) -> Path:
        """Private keys."""
        return self.path / "keys"

    @property
    def databases(self) -> Path:
        """SQLite files."""
        return self.path / "db"

    @property
    def anchors(self) -> Path:
        """The default sink."""
        return self.path / "anchors"

    @property
    def tiles(self) -> Path:
        """What the log serves."""
        return self.path / "tiles"

    @property
    def logs(self) -> Path:
        """Log files."""
        return self.path / "logs"

    @property
    def run(self) -> Path:
        """Ready files."""
        return self.path / "run"

    def log(self, name: str) -> Path:
        """The log file of a service, or of the supervisor."""
        return self.logs / f"{name}.log"

    def ready_file(self, service: str) -> Path:
        """Where a service says that it serves."""
        return self.run / f"{service}.ready"

    @property
    def supervisor_lock(self) -> Path:
        """Held while a supervisor lives."""
        return self.path / "supervisor.lock"

    @property
    def starting_lock(self) -> Path:
        """Held while a supervisor puts its pid into `supervisor_lock`."""
        return self.path / "starting.lock"

    @property
    def services_lock(self) -> Path:
        """Held while a supervisor or any service lives."""
        return self.path / "services.lock"

    def make(self) -> None:
        """Make the directory and those below it, closed to others.

        Raises:
            CommandError: if that is not possible.
        """
        try:
            for path in (
                self.path,
                self.keys,
                self.databases,
                self.anchors,
                self.tiles,
                self.logs,
                self.run,
            ):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise CommandError(
                f"cannot use {self.path} as data directory: {error.strerror}",
                hint="choose another one with --data-dir or PROVLEDGER_DATA_DIR",
            ) from None

    def supervisor_pid(self) -> int | None:
        """Pid of the living supervisor, or None."""
        return _holder(self.supervisor_lock)

    @property
    def import_key_file(self) -> Path:
        """What the lines of an import are known again by."""
        return self.path / "import.key"

    def import_key(self) -> bytes:
        """The 32 bytes that request ids of imported lines are made with; made when missing.

        Raises:
            CommandError: if the file cannot be made or is not ours.
        """
        path = self.import_key_file
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not path.exists():
                _write_once(path, secrets.token_bytes(IMPORT_KEY_BYTES))
            _remove_scratch(path)
            key = path.read_bytes()
        except OSError as error:
            raise CommandError(f"{path}: {error.strerror}") from None
        if len(key) != IMPORT_KEY_BYTES:
            raise CommandError(
                f"{path} does not hold {IMPORT_KEY_BYTES} bytes",
                hint="put the file back from a backup: without it, an import that is run again "
                "cannot know its own lines",
            )
        return key


def lock(path: Path, *, shared: bool = False) -> int | None:
    """Lock a file without waiting; its open descriptor, or None if another process holds it.

    The lock belongs to the open file and so also to every child that inherits the descriptor; it
    ends when the last of them has ended.

    Raises:
        CommandError: its file system has no locks.
        OSError: it cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try_lock(descriptor, shared=shared)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except OSError as error:
        os.close(descriptor)
        raise CommandError(
            f"{path} cannot be locked: {error.strerror}",
            hint="its file system has no locks (NFS may lack its lock daemon): mend that, or "
            "choose another --data-dir",
        ) from error
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether another process holds the lock."""
    if not path.exists():
        return False
    # Shared: two commands that look at once do not take each other for a holder.
    descriptor = lock(path, shared=True)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def _holder(path: Path) -> int | None:
    if not is_locked(path):
        return None
    text = path.read_text("ascii").strip()
    return int(text) if text.isdecimal() else None


def write_atomically(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put a whole file in place: readers see the old one or the new one. Durable on return."""
    with replacing(path, mode=mode) as file:
        file.write(data)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Put a JSON file in place, readable for people."""
    write_atomically(path, (json.dumps(value, indent=2) + "\n").encode())


def _write_once(path: Path, data: bytes) -> None:
    """Make a file unless it is there; of two that try at once, one wins and both see its bytes."""
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(_SCRATCH_DIGITS // 2)}")
    try:
        write_atomically(scratch, data)
        os.link(scratch, path)
    except FileExistsError:
        pass
    except FileNotFoundError:
        # Whoever made it meanwhile has removed our scratch file with all others.
        if not path.exists():
            raise
    finally:
        scratch.unlink(missing_ok=True)
    sync_directory(path.parent)


def _remove_scratch(path: Path) -> None:
    """Remove what was left by whoever was killed while making this file, which is there now.

    It may be a second name of the same bytes, which would outlive the first.
    """
    digits = f"[0-9a-f]{{{_SCRATCH_DIGITS}}}"
    # The longer ones are what the scratch file itself was made of.
    pattern = re.compile(
        rf"\.{re.escape(path.name)}\.{digits}|\.\.{re.escape(path.name)}(\.{digits}){{2}}"
    )
    # The file is there in any case, and a directory need not let itself be listed.
    with suppress(OSError):
        for each in path.parent.iterdir():
            if pattern.fullmatch(each.name):
                each.unlink(missing_ok=True)
