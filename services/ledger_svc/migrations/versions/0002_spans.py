"""SQLite: the indexes by resource and by actor lead with the span of the chain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_SPAN = sa.text("(seq >> 13)")
_INDEXES = (
    ("entries_resource", ("resource_type", "resource_id", "seq")),
    ("entries_actor", ("actor_id", "seq")),
)


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    for name, columns in _INDEXES:
        op.create_index(f"{name}_span", "entries", ["ledger_uid", _SPAN, *columns])
        op.drop_index(name, "entries")


def downgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    for name, columns in _INDEXES:
        op.create_index(name, "entries", ["ledger_uid", *columns])
        op.drop_index(f"{name}_span", "entries")
