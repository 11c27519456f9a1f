"""A log whose files are not in the data directory: behind the gateway's URL, or in a bucket.

`log fsck --tiles` hashes them there, and names the first file that does not fit; `backup` refuses
an installation whose anchor keeps its tiles in a bucket.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from provledger_cli.embedded import config, endpoints, launching
from tests.e2e.commands import Installation, shipped_mutations
from tests.support import peers
from tests.support.ports import free_ports
from tests.support.tiled import flip

BUCKET = "tiles"


def filled(own: Installation) -> Path:
    """Services with a log of some 300 entries; its directory."""
    (own.work / "m.ndjson").write_bytes(b"".join(shipped_mutations()[:300]))
    own.run("up")
    own.run("import", "m.ndjson", "--tenant", "demo")
    own.run("status", "--wait", "60")
    (log_dir,) = (own.data.tiles / "logs").iterdir()
    return log_dir


def files_of(log_dir: Path) -> dict[str, bytes]:
    """The log's files by their path below its directory."""
    return {
        str(path.relative_to(log_dir)): path.read_bytes()
        for path in sorted(log_dir.rglob("*"))
        if path.is_file()
    }


def damaged(own: Installation, place: str, path: str) -> None:
    found = own.run("log", "fsck", "--tiles", place, check=False)
    assert (found.code, found.json["holds"], found.json["path"]) == (1, False, path)


@pytest.mark.timeout(300)
def test_a_log_is_checked_through_the_gateway(own: Installation) -> None:
    log_dir = filled(own)
    known = endpoints.read(own.data.endpoints)
    assert known is not None
    if "gateway" not in known.services:
        pytest.skip("the gateway needs the extra `gateway`")
    url = f"http://{known.services['gateway'].endpoint}/{log_dir.name}"
    (whole,) = own.run("log", "fsck", "--tiles", url).json["logs"]
    assert (whole["entry_bundles"], whole["signatures"]) == (2, "hold")
    assert whole["tree_size"] >= 302
    for path in ("tile/0/000", "tile/entries/000"):
        data = (log_dir / path).read_bytes()
        (log_dir / path).write_bytes(flip(data, len(data) // 2, 2))
        damaged(own, url, path)
        (log_dir / path).write_bytes(data)
    assert own.run("log", "fsck", "--tiles", url).json["holds"] is True
    # What cannot be reached is not damaged.
    away = own.run("log", "fsck", "--tiles", f"http://127.0.0.1:{free_ports(1)[0]}/x", check=False)
    assert away.code == 2


@pytest.mark.timeout(300)
def test_a_log_is_checked_in_a_bucket_and_not_backed_up_without_it(
    own: Installation, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with peers.minio_store(tmp_path_factory.mktemp("minio")) as url:
        credentials = peers.ROOT | {"aws_region": "us-east-1"}
        own.settings = {name.upper(): value for name, value in credentials.items()}
        log_dir = filled(own)
        client = peers.s3_client(url)
        client.create_bucket(Bucket=BUCKET)

        def put(path: str, data: bytes) -> None:
            client.put_object(Bucket=BUCKET, Key=f"a/logs/{log_dir.name}/{path}", Body=data)

        files = files_of(log_dir)
        for path, data in files.items():
            put(path, data)
        place = f"s3://{BUCKET}/a/logs/{log_dir.name}?endpoint={url}"
        (whole,) = own.run("log", "fsck", "--tiles", place).json["logs"]
        assert (whole["entry_bundles"], whole["signatures"]) == (2, "hold")
        put("tile/0/000", flip(files["tile/0/000"], 40, 2))
        damaged(own, place, "tile/0/000")
        put("tile/0/000", files["tile/0/000"])
        assert own.run("log", "fsck", "--tiles", place).json["holds"] is True
        own.run("down")

        started_in_bucket(own, f"s3://{BUCKET}/a?endpoint={url}")
        refused = own.run("backup", "--out", "b.tar", check=False)
        assert refused.code == 2
        assert place in refused.json["error"]["message"]
        assert "restore.md" in refused.talk
        assert not list(own.work.glob("*b.tar*"))
        unchecked = own.run("log", "fsck", check=False)
        assert (unchecked.code, place in unchecked.json["error"]["message"]) == (2, True)
        # `up` keeps them in the directory.
        own.run("up")
        own.run("backup", "--out", "b.tar")


def started_in_bucket(own: Installation, tile_store: str) -> None:
    """Run the installation's anchor once, with its tiles in a bucket, as one without `up` may."""
    settled = config.load(own.data)
    assert settled is not None
    ports = dict.fromkeys(launching.installed(), 0) | {"keys": free_ports(1)[0]}
    environment = launching.environment("anchor", own.data, settled, ports)
    ready = Path(environment["PROVLEDGER_ANCHOR_READY_FILE"])
    running = subprocess.Popen(
        [sys.executable, "-m", "anchor_svc"],
        env={**environment, **own.settings, "PROVLEDGER_ANCHOR_TILE_STORE": tile_store},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        end_s = time.monotonic() + 60
        while not ready.exists():
            assert running.poll() is None, running.stdout and running.stdout.read()
            assert time.monotonic() < end_s
            time.sleep(0.05)
    finally:
        running.terminate()
        running.communicate(timeout=60)
    assert running.returncode == 0
