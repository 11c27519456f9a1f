"""Puts the notary together from its settings and runs it, until it is told to stop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from notary_svc.config import Settings
from notary_svc.opening import opened
from notary_svc.web import Notary
from provledger import logs
from provledger.errors import InputError
from provledger.http import server
from provledger.http.server import WebApp, check_tls
from provledger.note import VerifierKey
from provledger.policy import MAX_POLICY_BYTES, parse_policy
from provledger.settings import ConfigError

log = logs.get(__name__)


def read_logs(path: Path) -> dict[str, list[VerifierKey]]:
    """The trusted keys of each origin, from a policy file; ConfigError if it cannot be used."""
    try:
        with path.open("rb") as file:
            policy = parse_policy(file.read(MAX_POLICY_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"logs {path}: {error.strerror}") from error
    except InputError as error:
        raise ConfigError(f"logs {path}: {error}") from error
    trusted: dict[str, list[VerifierKey]] = {}
    for item in policy.logs:
        trusted.setdefault(item.key.name, []).append(item.key)
    return trusted


async def serve(
    settings: Settings,
    *,
    clock: Callable[[], int] = time.time_ns,
    on_ready: Callable[[int], None] = lambda port: None,
    stop: asyncio.Event,
    hurry: asyncio.Event | None = None,
) -> None:
    """Run the notary until `stop`, then answer what is in flight; `hurry` ends that wait.

    Raises:
        ConfigError: settings it cannot start with. StatusError: the database cannot be used.
    """
    check_tls(settings)
    trusted = read_logs(settings.logs)
    async with opened(settings) as (cosigner, storage):
        if {key.public_key for keys in trusted.values() for key in keys} & cosigner.public_keys:
            raise ConfigError(
                "logs: one of our own keys is there; cosigners and logs share no keys"
            )
        app = Notary(cosigner, trusted, storage, clock=clock).app()
        for vkey in cosigner.vkeys:
            log.info("notary.vkey", vkey=vkey)
        # The same listener as the gateway's, with its bounds on what strangers hold (ADR 0026).
        await server.serve(WebApp(app), settings, stop=stop, hurry=hurry, on_ready=on_ready)
