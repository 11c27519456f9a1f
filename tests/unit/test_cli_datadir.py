"""A data directory: closed to others, one supervisor, one import key, files that are whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from typer.testing import CliRunner

from anchor_svc import sinks
from provledger.db import open_engine
from provledger.errors import KeyFormatError
from provledger_cli import connect
from provledger_cli.embedded import config, datadir, endpoints, launching, running
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.embedded.endpoints import Endpoints, ServiceState
from provledger_cli.failures import CommandError
from provledger_cli.main import application
from provledger_cli.tlog.stored import AnchorRows


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir.at(tmp_path / "data")
    made.make()
    return made


def some_endpoints(**changes: str) -> Endpoints:
    return Endpoints(
        version="0",
        supervisor_pid=1,
        database="sqlite",
        sinks=(),
        services={
            name: ServiceState(changes.get(name, f"127.0.0.1:{number}"), 1, "serving", 0, None, "l")
            for number, name in enumerate(datadir.SERVICES, start=1)
        },
    )


def test_everything_in_it_is_closed_to_others(directory: DataDir) -> None:
    for path in [directory.path, *directory.path.iterdir()]:
        assert path.stat().st_mode & 0o077 == 0
    directory.import_key()
    assert (directory.path / "import.key").stat().st_mode & 0o077 == 0


def test_the_default_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/x/share")
    assert DataDir.at(None).path == Path("/x/share/provledger")
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert DataDir.at(None).path == Path("/home/me/.local/share/provledger")


def test_the_import_key_is_made_once_even_by_many_at_once(directory: DataDir) -> None:
    keys: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: keys.append(directory.import_key())) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 8
    assert len(set(keys)) == 1
    assert len(keys[0]) == 32


@pytest.mark.parametrize(
    ("call", "done"), [("replace", False), ("link", False), ("link", True), ("unlink", False)]
)
def test_what_was_left_by_one_that_was_killed_while_making_the_import_key_goes(
    directory: DataDir, call: str, done: bool
) -> None:
    """It holds a key, and may be the key itself by another name."""
    others = [directory.path / ".import.key.mine", directory.path / ".other.key.0123456789ab"]
    for other in others:
        other.write_bytes(b"")
    script = f"""
import os, pathlib, signal
from provledger_cli.embedded.datadir import DataDir
real = os.{call}
def last(*words, **more):
    if {done}:
        real(*words, **more)
    os.kill(os.getpid(), signal.SIGKILL)
os.{call} = last
DataDir(pathlib.Path({str(directory.path)!r})).import_key()
"""
    killed = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert len(list(directory.path.glob("*.import.key.*"))) == 2
    key = directory.import_key()
    assert key == directory.import_key_file.read_bytes()
    assert set(directory.path.glob(".*")) == set(others)


def test_an_import_key_that_another_made_meanwhile_is_taken(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who made it has removed our scratch file with all others."""
    link = os.link

    def late(scratch: Path, path: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        DataDir(directory.path).import_key()
        link(scratch, path)

    monkeypatch.setattr(os, "link", late)
    assert directory.import_key() == directory.import_key_file.read_bytes()


def test_a_damaged_import_key_is_not_replaced(directory: DataDir) -> None:
    (directory.path / "import.key").write_bytes(b"short")
    with pytest.raises(CommandError, match="32 bytes"):
        directory.import_key()


def test_a_lock_is_seen_by_others_and_ends_with_its_holder(directory: DataDir) -> None:
    assert directory.supervisor_pid() is None
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import os,sys\nfrom pathlib import Path\n"
            "from provledger_cli.embedded.datadir import lock\n"
            "fd = lock(Path(sys.argv[1])); os.pwrite(fd, b'%d' % os.getpid(), 0)\n"
            "print(flush=True); sys.stdin.read()",
            directory.supervisor_lock,
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    assert directory.supervisor_pid() == holder.pid
    assert datadir.lock(directory.supervisor_lock) is None
    holder.kill()
    holder.communicate()
    assert directory.supervisor_pid() is None


def test_a_file_is_replaced_as_a_whole_or_not_at_all(directory: DataDir) -> None:
    path = directory.path / "x"
    datadir.write_atomically(path, b"old")
    with pytest.raises(TypeError):
        datadir.write_atomically(path, "text")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert [item.name for item in directory.path.iterdir() if item.name.startswith(".")] == []


def test_a_data_directory_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CommandError) as caught:
        DataDir.at(tmp_path / "file" / "data").make()
    assert "--data-dir" in caught.value.hint


def test_endpoints_are_read_as_they_were_written(directory: DataDir) -> None:
    written = some_endpoints()
    written.write(directory.endpoints)
    assert endpoints.read(directory.endpoints) == written
    assert endpoints.read(directory.path / "none") is None


@pytest.mark.parametrize("text", ["{}", "[" * 100_000], ids=["empty", "deep"])
def test_a_broken_endpoints_file_says_what_to_do(directory: DataDir, text: str) -> None:
    directory.endpoints.write_text(text)
    with pytest.raises(CommandError, match="not a file of endpoints"):
        endpoints.read(directory.endpoints)


def test_earlier_ports_are_kept_unless_taken(directory: DataDir) -> None:
    import socket

    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        taken_port, free_port = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        before = some_endpoints(keys=f"127.0.0.1:{taken_port}", ledger=f"127.0.0.1:{free_port}")
        ports = launching.earlier_ports(before)
    assert ports["keys"] == 0
    assert ports["ledger"] == free_port
    assert set(launching.earlier_ports(None).values()) == {0}


def test_the_first_up_decides_the_database_for_good(directory: DataDir) -> None:
    url = "postgresql+psycopg://u:secret@h/db"
    first = config.settle(directory, url, [])
    assert first.sinks == (directory.anchors.as_uri(),)
    assert first.database == "postgresql"
    assert directory.config.stat().st_mode & 0o077 == 0
    assert config.settle(directory, "", []) == first
    # Until there is a key, a first attempt may be corrected.
    assert config.settle(directory, url + "2", []).database_url == url + "2"
    assert config.settle(directory, url, []) == first
    (directory.keys / "witness-1.pem").touch()
    with pytest.raises(CommandError, match="another database") as caught:
        config.settle(directory, "postgresql+psycopg://u@h/other", [])
    assert "secret" not in str(caught.value) + caught.value.hint


KEPT = "postgresql+psycopg://u:old@h/db"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:new@h/db",
        "postgresql+psycopg://other:new@h/db",
        "postgres://u@h:5432/db?passfile=/run/pass",
        "postgresql://u:new@h/db?sslmode=verify-full",
        "postgresql://u:new@h/other?dbname=db",
        "postgresql://u:new@h2:5433/?host=h&port=5432&dbname=db",
        "postgresql:///?user=other&host=h&dbname=db",
    ],
)
def test_another_url_of_the_same_database_is_taken(directory: DataDir, url: str) -> None:
    """A password that was changed, say; and the next one, if that was mistyped."""
    config.settle(directory, KEPT, ["file:///elsewhere"])
    (directory.keys / "witness-1.pem").touch()
    assert config.settle(directory, url, []).database_url == url
    assert config.settle(directory, "", []) == config.load(directory)
    assert config.load(directory) == config.Config(url, ("file:///elsewhere",))
    assert config.settle(directory, KEPT, []).database_url == KEPT


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+psycopg://u:old@h/db2",
        "postgresql+psycopg://u:old@h2/db",
        "postgresql+psycopg://u:old@h:5433/db",
        "postgresql+psycopg://u:old@h/db?host=h2",
        "postgresql+psycopg://u:old@h/db?host=h:5432&host=h2:5432",
        "postgresql+psycopg://u:old@h/db?port=5433",
        "postgresql+psycopg://u:old@h/db?dbname=db2",
        "postgresql+psycopg://u:old@h/db?service=prod",
        "postgresql+psycopg://u:old@h/db?hostaddr=10.0.0.1",
        "postgresql+psycopg://u:old@h",
        "sqlite:////db",
    ],
)
def test_a_url_of_another_database_is_refused(directory: DataDir, url: str) -> None:
    first = config.settle(directory, KEPT, [])
    (directory.keys / "witness-1.pem").touch()
    with pytest.raises(CommandError, match="another database") as caught:
        config.settle(directory, url, [])
    assert "old" not in str(caught.value)
    assert config.load(directory) == first


@pytest.mark.parametrize("used", [True, False])
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql+asyncpg://u:secret@h/db", "not supported"),
        ("mysql://u:secret@h/db", "not supported"),
        ("postgresql+psycopg://u:secret@h:port/db", "cannot be read"),
        ("db", "cannot be read"),
    ],
)
def test_a_url_that_no_service_takes_is_not_kept(
    directory: DataDir, used: bool, url: str, said: str
) -> None:
    if used:
        config.settle(directory, KEPT, [])
        (directory.keys / "witness-1.pem").touch()
    before = config.load(directory)
    with pytest.raises(CommandError, match=said) as caught:
        config.settle(directory, url, [])
    assert "secret" not in str(caught.value)
    assert config.load(directory) == before


def test_running_services_keep_their_url(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often another one is given; it is tried at a start, and nobody knows it yet."""
    first = running.set_up(directory, KEPT, [])
    (directory.keys / "witness-1.pem").touch()
    monkeypatch.setattr(DataDir, "supervisor_pid", lambda _: 1)
    new = KEPT.replace("old", "new")
    for _ in range(2):
        with pytest.raises(CommandError, match="another URL of the database, until") as caught:
            running.set_up(directory, new, [])
        assert "new@" not in str(caught.value)
        assert config.load(directory) == first
    assert running.set_up(directory, KEPT, []) == first


NEW = KEPT.replace("old", "new")


@pytest.mark.parametrize(
    ("used", "error", "others_pid", "kept"),
    [
        (True, CommandError("the supervisor ended", hint="see the log"), None, KEPT),
        (True, KeyFormatError("no key"), None, KEPT),
        (True, running.PartlyServingError("not all serve"), None, NEW),
        # Somebody else started them meanwhile.
        (True, CommandError("not everything serves"), 1, NEW),
        # Nothing was recorded before; now something may be, in the new one.
        (False, CommandError("the supervisor ended"), None, NEW),
        (True, None, None, NEW),
    ],
)
def test_a_url_that_nothing_started_with_gives_way_to_the_one_of_before(
    directory: DataDir,
    monkeypatch: pytest.MonkeyPatch,
    used: bool,
    error: Exception | None,
    others_pid: int | None,
    kept: str,
) -> None:
    """Its password may be written down nowhere else."""
    config.settle(directory, KEPT, ["file:///elsewhere"])
    if used:
        (directory.keys / "witness-1.pem").touch()
    tried: list[str] = []

    def start(directory: DataDir, *_: object) -> None:
        (directory.keys / "witness-1.pem").touch()
        monkeypatch.setattr(DataDir, "supervisor_pid", lambda _: others_pid)
        found = config.load(directory)
        assert found is not None
        tried.append(found.database_url)
        if error is not None:
            raise error

    monkeypatch.setattr("provledger_cli.verbs.up._behind", start)
    ended = CliRunner().invoke(
        application(), ["up", "--data-dir", str(directory.path), "--database-url", NEW]
    )
    assert (ended.exception, tried) == (error, [NEW])
    assert config.load(directory) == config.Config(kept, ("file:///elsewhere",))
    if isinstance(error, CommandError):
        assert ("give --database-url again" in error.hint) == (kept == KEPT)


def test_each_service_gets_a_database_of_its_own(directory: DataDir) -> None:
    sqlite = config.settle(directory, "", ["file:///elsewhere"])
    assert sqlite.url(directory, "ledger") == f"sqlite:///{directory.path}/db/ledger.sqlite3"
    assert sqlite.sinks == ("file:///elsewhere",)


@pytest.mark.parametrize("name", ["we?ird", "per%20cent", "100%", "a#b", "@:x", "ä b", "=&+;"])
def test_a_database_is_in_its_directory_whatever_that_is_called(tmp_path: Path, name: str) -> None:
    there = DataDir.at(tmp_path / name)
    there.make()
    url = config.settle(there, "", []).url(there, "keys")
    engine = open_engine(url, "keys")
    engine.connect().close()
    engine.dispose()
    assert "keys.sqlite3" in [path.name for path in there.databases.iterdir()]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("left", ["keys/x.pem", "key-ledger.pin", "tiles/logs/ab/restored.json"])
def test_a_directory_that_was_used_stays_with_its_database(directory: DataDir, left: str) -> None:
    """A restored one, say, whose keys were not brought yet."""
    config.settle(directory, "", [])
    (directory.path / left).parent.mkdir(parents=True, exist_ok=True)
    (directory.path / left).touch()
    with pytest.raises(CommandError, match="another database"):
        config.settle(directory, "postgresql+psycopg://u@h/other", [])
    with pytest.raises(CommandError, match="FIPS"):
        config.settle(directory, "", [], fips=True)


@pytest.mark.filterwarnings("ignore:Query string argument")  # SQLite has no passwords
def test_a_database_that_cannot_be_read_is_named_without_its_password(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/x.sqlite3?password=secret"
    with pytest.raises(CommandError, match="cannot be read") as caught:
        AnchorRows(open_engine(url, "anchor")).log_uids()
    assert f"{tmp_path}/x.sqlite3" in caught.value.message
    assert "secret" not in caught.value.message


def test_services_are_told_where_the_others_are(directory: DataDir) -> None:
    ports = dict(zip(datadir.SERVICES, (1, 2, 3, 0), strict=True))
    settled = config.settle(directory, "", [])
    told = launching.environment("ledger", directory, settled, ports)
    assert told["PROVLEDGER_LEDGER_WITNESS_ENDPOINT"] == "127.0.0.1:2"
    assert told["PROVLEDGER_LEDGER_PORT"] == "0"
    assert told["PATH"] == os.environ["PATH"]
    assert "DATABASE_URL" not in " ".join(
        launching.environment("witness", directory, settled, ports)
    )


def test_a_target_is_the_data_directory_or_what_is_named(directory: DataDir) -> None:
    with pytest.raises(CommandError, match="no services have been started"):
        connect.target(directory.path)
    some_endpoints().write(directory.endpoints)
    directory.supervisor_lock.write_text("1\n")
    held = datadir.lock(directory.supervisor_lock)
    assert held is not None
    embedded = connect.target(directory.path)
    os.close(held)
    assert (embedded.embedded, embedded.stopped) == (True, False)
    assert embedded.addresses["ledger"] == "127.0.0.1:4"
    named = connect.target(directory.path, ["localhost:1", "keys=[::1]:2,anchor=plaintext:h:3"])
    assert not named.embedded
    assert named.addresses == {
        "ledger": "localhost:1",
        "keys": "[::1]:2",
        "anchor": "plaintext:h:3",
    }
    first = connect.target(directory.path, ["[::1]:1"], first="keys")
    assert first.addresses == {"keys": "[::1]:1"}
    with pytest.raises(CommandError, match="without TLS"):
        connect.target(directory.path, ["h:1"])


def test_addresses_of_a_directory_where_nothing_runs_are_somebody_elses(
    directory: DataDir,
) -> None:
    some_endpoints().write(directory.endpoints)
    directory.supervisor_lock.write_text("1\n")
    directory.services_lock.touch()
    with pytest.raises(CommandError, match="nothing runs in") as caught:
        connect.target(directory.path)
    assert "provledger up" in caught.value.hint
    assert connect.target(directory.path, must_run=False).stopped
    # The services of a supervisor that was killed, while they end.
    held = datadir.lock(directory.services_lock)
    assert held is not None
    try:
        assert connect.target(directory.path).addresses["ledger"] == "127.0.0.1:4"
    finally:
        os.close(held)


def test_addresses_that_a_new_supervisor_has_not_written_are_somebody_elses(
    directory: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a copy, they are those of the original until the first file of its own supervisor."""
    some_endpoints().write(directory.endpoints)
    directory.supervisor_lock.write_text("2\n")
    held = datadir.lock(directory.supervisor_lock)
    assert held is not None
    try:
        assert connect.target(directory.path, must_run=False).stopped
        monkeypatch.setattr(connect, "_STARTING_S", 0.01)
        with pytest.raises(CommandError, match="only being started"):
            connect.target(directory.path)

        def write(_: float) -> None:
            replace(some_endpoints(ledger="127.0.0.1:9"), supervisor_pid=2).write(
                directory.endpoints
            )

        monkeypatch.setattr(connect, "_STARTING_S", 60.0)
        monkeypatch.setattr(time, "sleep", write)
        assert connect.target(directory.path).addresses["ledger"] == "127.0.0.1:9"
    finally:
        os.close(held)


@pytest.mark.parametrize("text", ["h", "h:", ":1", "db=h:1", "h:x", "keys="])
def test_an_endpoint_that_cannot_be_read_says_how_it_should_look(
    directory: DataDir, text: str
) -> None:
    with pytest.raises(CommandError) as caught:
        connect.target(directory.path, [text])
    assert "127.0.0.1:7001" in caught.value.hint


def test_half_a_set_of_certificates_is_refused(directory: DataDir) -> None:
    with pytest.raises(CommandError, match="tls_key"):
        connect.target(directory.path, ["h:1"], tls_cert=Path("c.pem"))


@pytest.mark.parametrize("uri", ["foo", "/mnt/elsewhere", "", "carrier-pigeon:coop", "http://[x"])
def test_what_is_no_sink_is_refused(uri: str) -> None:
    with pytest.raises(CommandError, match="is no sink: known are file:, http:"):
        config.check_sinks(["file:///a", uri])


@pytest.mark.parametrize(
    ("sign", "named", "escape"),
    [
        (",", "comma", "%2C"),
        (" ", "blank", "%20"),
        ("\t", "blank", "%09"),
        ("\xa0", "blank", "%C2%A0"),
    ],
)
def test_what_the_anchor_would_take_for_two_sinks_is_refused(
    sign: str, named: str, escape: str
) -> None:
    uri = f"file:///a{sign}b"
    with pytest.raises(CommandError, match=f"has a {named} in it") as refused:
        config.check_sinks(["file:///a", uri])
    assert escape in refused.value.hint
    config.check_sinks([uri.replace(sign, escape)])


def test_sinks_are_those_of_the_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.SINK_SCHEMES == sinks._BUILTIN
    assert config.SINK_GROUP == sinks.ENTRY_POINTS
    config.check_sinks([f"{scheme}:x" for scheme in config.SINK_SCHEMES])
    somebodys = EntryPoint("pigeon", "coop:Sink", config.SINK_GROUP)
    monkeypatch.setattr(
        "importlib.metadata.entry_points",
        lambda **wanted: [each for each in [somebodys] if each.matches(**wanted)],
    )
    config.check_sinks(["pigeon:coop"])
