"""Opens a notary's keys together with its memory.

Keys that are made are remembered by the database before they are written: whatever is killed in
between, there are no keys that their database does not know.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy.engine import URL

from notary_svc import signing
from notary_svc.config import Settings
from notary_svc.memory import check_memory
from notary_svc.signing import Cosigner
from notary_svc.storage import Storage
from notary_svc.storage.sql import SQLStorage
from provledger import logs
from provledger.db import lock_data_dir
from provledger.settings import ConfigError

log = logs.get(__name__)


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[tuple[Cosigner, Storage]]:
    """The cosigner, whose keys are made if there are none, and its memory, for this process alone.

    Raises:
        ConfigError: the directory or the keys cannot be used, or the database is not theirs.
        StatusError: the database cannot be used.
    """
    own = URL.create("sqlite", database=f"{settings.data_dir.absolute()}/notary.db")
    url = settings.database_url or own.render_as_string(hide_password=False)
    with lock_data_dir(settings.data_dir, "notary"):
        storage = await asyncio.to_thread(SQLStorage.open, url)
        try:
            yield await open_cosigner(settings, storage), storage
        finally:
            await storage.close()


async def open_cosigner(settings: Settings, storage: Storage) -> Cosigner:
    """The cosigner of these settings, if the storage is its memory; see `opened`."""
    cosigner, made = Cosigner.load(settings.name, settings.data_dir)
    new = {each.vkey for each in made}
    memory = await storage.memory()
    before = [vkey for vkey in cosigner.vkeys if vkey not in new]
    check_memory(memory, before, accept_empty=settings.accept_empty_database)
    if settings.accept_empty_database and memory.vkeys:
        log.warning("notary.accept_empty_database_is_set", why="take it away: it was for one start")
    await storage.remember(cosigner.vkeys)
    for each in made:
        signing.write_key(each)
    return cosigner


async def vkeys(settings: Settings) -> list[str]:
    """What others trust the notary by; keys are made, and remembered, if there are none.

    Also while it runs. Raises as `opened`.
    """
    try:
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data_dir {settings.data_dir}: {error.strerror}") from error
    cosigner, made = Cosigner.load(settings.name, settings.data_dir)
    if made:
        async with opened(settings) as (cosigner, _):
            pass
    return cosigner.vkeys
