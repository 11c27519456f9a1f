"""What of a database is ours: the tables that migrations make, with their columns.

Operators put others beside them. `restore` makes databases by the same migrations, and has no place
for anything else: so a backup of PostgreSQL leaves it out, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from provledger.db import migrate, open_engine

_COLUMNS: Final = sa.text(
    "SELECT t.table_name, c.column_name, "
    "t.table_type = 'BASE TABLE' AND c.is_generated = 'NEVER' AS stored "
    "FROM information_schema.tables t JOIN information_schema.columns c "
    "ON c.table_schema = t.table_schema AND c.table_name = t.table_name "
    "WHERE t.table_schema = :schema ORDER BY t.table_name, c.ordinal_position"
)


def made(service: str, revision: str, directory: Path) -> Mapping[str, tuple[str, ...]]:
    """The columns of each table that the migrations up to `revision` make, by its name.

    Found out by making them, in SQLite, where they are called the same. directory: for that file.
    """
    path = directory / f"made-{service}.sqlite3"
    engine = open_engine(f"sqlite:///{path}", service, pool_size=1)
    try:
        migrate(engine, f"{service}_svc.migrations", service, revision=revision)
        look = sa.inspect(engine)
        return {
            table: tuple(column["name"] for column in look.get_columns(table))
            for table in look.get_table_names()
        }
    finally:
        engine.dispose()
        for left in directory.glob(f"{path.name}*"):
            left.unlink()


def compare(
    connection: Connection, schema: str, ours: Mapping[str, tuple[str, ...]]
) -> tuple[list[str], list[str]]:
    """Of a schema of PostgreSQL: what of ours is not stored in it, and what in it is not ours.

    Named `schema.table` or `schema.table.column`; a table that is away, by its columns.
    """
    lacking = {(table, column) for table, columns in ours.items() for column in columns}
    others: dict[str, None] = {}
    for table, column, stored in connection.execute(_COLUMNS, {"schema": schema}):
        if table not in ours:
            others[f"{schema}.{table}"] = None
        elif column not in ours[table]:
            others[f"{schema}.{table}.{column}"] = None
        elif stored:
            lacking.discard((table, column))
    return [f"{schema}.{table}.{column}" for table, column in sorted(lacking)], list(others)
