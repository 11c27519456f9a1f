"""Services on PostgreSQL for the tests that attack it: a server, and a proxy for each service."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy.engine import make_url

from tests.faults.cluster import Cluster
from tests.faults.conftest import QUICK, Attack
from tests.faults.pgproxy import PostgresProxy
from tests.support.ports import free_ports
from tests.support.postgres import PostgresServer, connection_string, fresh_database

SERVICES = ("ledger", "anchor", "keys")
"""Those with a database."""


class OnPostgres:
    """An attack on services whose database can be restarted, and reached by a proxy or directly."""

    def __init__(
        self, attack: Attack, server: PostgresServer, url: str, proxies: dict[str, PostgresProxy]
    ) -> None:
        self.attack = attack
        self.server = server
        self.url = url
        self.proxies = proxies

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection of the test's own, as superuser."""
        with psycopg.connect(connection_string(self.url), autocommit=True) as connection:
            yield connection

    def calm(self) -> None:
        """No more faults."""
        for proxy in self.proxies.values():
            proxy.calm()


@contextmanager
def on_postgres(
    server: PostgresServer,
    path: Path,
    seed: int,
    *,
    replicas: int = 1,
    replace: tuple[bytes, bytes] = (b"", b""),
) -> Iterator[OnPostgres]:
    """Services that are not started yet, on a database of their own; `replace` as in the proxy."""
    with fresh_database(server.url) as url:
        proxies = {
            name: PostgresProxy(port, server.socket_path, replace).start()
            for name, port in zip(SERVICES, free_ports(len(SERVICES)), strict=True)
        }
        urls = {
            name: make_url(url)
            .set(host="127.0.0.1", port=proxy.port, query={"sslmode": "disable",
                                                           "gssencmode": "disable"})
            .render_as_string(hide_password=False)
            for name, proxy in proxies.items()
        }  # fmt: skip
        cluster = Cluster(
            path / "data", database_urls=urls, ledger_replicas=replicas, options=QUICK
        )
        attack = Attack(cluster, path / "record", seed)
        try:
            yield OnPostgres(attack, server, url, proxies)
        finally:
            attack.close()
            for proxy in proxies.values():
                proxy.close()
