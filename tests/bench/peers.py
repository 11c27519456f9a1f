"""What else one may do with the same PostgreSQL: the limit, and what a team would write itself.

* `copy`: binary COPY of fixed rows of 1 KiB, a transaction each 500: no index but the key, no hash,
  no signature, nothing read. The limit of what durable rows this server takes from Python.
* `trigger`: an insert-only table whose trigger links each row to the last one by SHA-256 under a
  lock on the head, in transactions of 500 rows and of one row, from one and from eight connections.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

ROW_BYTES = 1024
BATCH = 500

_TABLES = """
CREATE SCHEMA peers;
CREATE TABLE peers.plain (id bigint PRIMARY KEY, data bytea NOT NULL);
CREATE TABLE peers.head (one int PRIMARY KEY, id bigint NOT NULL, hash bytea NOT NULL);
INSERT INTO peers.head VALUES (1, 0, '');
CREATE TABLE peers.chained (id bigint PRIMARY KEY, prev bytea NOT NULL, hash bytea NOT NULL,
    at timestamptz NOT NULL DEFAULT clock_timestamp(), data bytea NOT NULL);
CREATE FUNCTION peers.link() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE last peers.head%ROWTYPE;
BEGIN
    SELECT * INTO last FROM peers.head WHERE one = 1 FOR UPDATE;
    NEW.id := last.id + 1;
    NEW.prev := last.hash;
    NEW.hash := sha256(last.hash || NEW.data);
    UPDATE peers.head SET id = NEW.id, hash = NEW.hash WHERE one = 1;
    RETURN NEW;
END $$;
CREATE TRIGGER link BEFORE INSERT ON peers.chained FOR EACH ROW EXECUTE FUNCTION peers.link();
CREATE FUNCTION peers.refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'insert only'; END $$;
CREATE TRIGGER refuse BEFORE UPDATE OR DELETE ON peers.chained
    FOR EACH ROW EXECUTE FUNCTION peers.refuse();
"""
_INSERT = "INSERT INTO peers.chained (data) VALUES (%s)"


def run(url: str, *, full: bool) -> dict[str, Any]:
    """Measure all of them in a schema of its own; rows a second."""
    count = 100_000 if full else 20_000
    address = _address(url)
    with psycopg.connect(address) as connection:
        connection.execute(_TABLES)
    return {
        "row_bytes": ROW_BYTES,
        "copy_500": _rate(count, lambda: _copy(address, count)),
        "trigger_500": _rate(count // 4, lambda: _trigger_batches(address, count // 4)),
        "trigger_single": _rate(count // 20, lambda: _trigger_singles(address, count // 20, 1)),
        "trigger_single_8": _rate(count // 20, lambda: _trigger_singles(address, count // 20, 8)),
    }


def _address(url: str) -> str:
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


_POOL = [os.urandom(ROW_BYTES) for _ in range(10 * BATCH)]
"""Rows, made before anything is timed: making one takes some microseconds, and so does its COPY.
They come again, which these tables do not notice: no index but the key, nothing compressed."""


def _rate(count: int, work: Callable[[], None]) -> int:
    start = time.perf_counter()
    work()
    return round(count / (time.perf_counter() - start))


def _rows(count: int) -> list[bytes]:
    return list(islice(cycle(_POOL), count))


def _copy(address: str, count: int) -> None:
    with psycopg.connect(address) as connection, connection.cursor() as cursor:
        for first in range(0, count, BATCH):
            statement = "COPY peers.plain (id, data) FROM STDIN (FORMAT BINARY)"
            with cursor.copy(statement) as copy:
                copy.set_types(["int8", "bytea"])
                for offset, data in enumerate(_rows(BATCH)):
                    copy.write_row((first + offset, data))
            connection.commit()


def _trigger_batches(address: str, count: int) -> None:
    with psycopg.connect(address) as connection, connection.cursor() as cursor:
        for _ in range(0, count, BATCH):
            cursor.executemany(_INSERT, [(data,) for data in _rows(BATCH)])
            connection.commit()


def _trigger_singles(address: str, count: int, connections: int) -> None:
    def work(share: int) -> None:
        with psycopg.connect(address, autocommit=True) as connection:
            for data in _rows(share):
                connection.execute(_INSERT, (data,), prepare=True)

    with ThreadPoolExecutor(connections) as threads:
        list(threads.map(work, [count // connections] * connections))
