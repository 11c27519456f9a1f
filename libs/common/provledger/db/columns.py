"""Column types that believe no database about the type of a value.

SQLite stores any value in any column, whatever type the column was declared with. Whoever can write
to the file can put a text where a number was; read as it is, it fails somewhere in our code, as a
fault of ours. Columns of these types raise DataLossError where it is read, naming table and column.

PostgreSQL keeps types itself: there, these are SQLAlchemy's own types, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Dialect

from provledger.errors import DataLossError


class Int(sa.BigInteger):
    """A whole number. where: `table.column`."""

    def __init__(self, where: str = "") -> None:
        super().__init__()
        self.where = where

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """As SQLAlchemy asks for it."""
        return _checked(dialect, int, self.where) or super().result_processor(dialect, coltype)


class Blob(sa.LargeBinary):
    """Bytes. where: `table.column`."""

    def __init__(self, where: str = "") -> None:
        super().__init__()
        self.where = where

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """As SQLAlchemy asks for it."""
        if (check := _checked(dialect, bytes, self.where)) is not None:
            return check
        return super().result_processor(dialect, coltype)  # type: ignore[no-any-return,no-untyped-call]


class Text(sa.Text):
    """A text. where: `table.column`."""

    def __init__(self, where: str = "") -> None:
        super().__init__()
        self.where = where

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any] | None:
        """As SQLAlchemy asks for it."""
        return _checked(dialect, str, self.where) or super().result_processor(dialect, coltype)


def typed_table(
    name: str, metadata: sa.MetaData, primary_key: str, **columns: type[Int | Blob | Text]
) -> sa.Table:
    """A table of such columns. primary_key: names of columns, with spaces between them."""
    keys = primary_key.split()
    return sa.Table(
        name,
        metadata,
        *(
            sa.Column(column, kind(f"{name}.{column}"), primary_key=column in keys)
            for column, kind in columns.items()
        ),
    )


def _checked(dialect: Dialect, kind: type, where: str) -> Callable[[Any], Any] | None:
    if dialect.name != "sqlite":
        return None

    def check(value: Any) -> Any:
        if value is None or type(value) is kind:
            return value
        table, _, column = where.partition(".")
        raise DataLossError(
            "VALUE_DAMAGED",
            f"a value of {where} in the database is of another type than it is ever written with; "
            "restore the database",
            metadata={"table": table, "column": column},
        )

    return check
