"""Alembic's environment, shared by all services; run by `provledger.db.migrate` only.

The connection comes with a transaction that is already open, and whoever opened it commits.
"""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table="alembic_version",
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
