"""Databases that several files test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from ledger_svc.storage.database import Database


@pytest.fixture
async def storage(database_url: str) -> AsyncIterator[Database]:
    """The ledger's database; files about another have a fixture of that name themselves."""
    database = Database.open(database_url, reader_threads=2)
    await asyncio.to_thread(database.migrate)
    yield database
    await database.close()
