"""Puts the witness service together from its settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

from provledger import logs
from provledger.api.witness.v1 import witness_pb2_grpc
from provledger.errors import UnavailableError
from provledger.keyring import KeyRing
from provledger.kms import open_signer
from provledger.rpc.server import App
from provledger.settings import ConfigError
from provledger.statement import MAX_STATEMENT_BYTES
from witness_svc.checks import MAX_PAYLOAD_BYTES
from witness_svc.config import Settings
from witness_svc.convert import limits
from witness_svc.servicer import WitnessServicer
from witness_svc.signing import BatchSigner
from witness_svc.tokens import PURPOSE, SigningTokens
from witness_svc.witness import Witness

log = logs.get(__name__)

_PATIENCE_S: Final = 5.0

# What a response holds beside statements and payloads: hashes, ids, secrets, framing.
_BYTES_AROUND_ITEM: Final = 256
_LEAF_HASH_BYTES: Final = 32


async def build(settings: Settings, *, clock: Callable[[], int] = time.time_ns) -> App:
    """Wait for a key to sign with, and make the app: without one there is nothing to serve.

    Raises:
        ConfigError: for TLS files that cannot be used, or messages too small for our answers.
    """
    max_answer_bytes = _answer_bytes(settings)
    ring = KeyRing(
        settings.keys_endpoint,
        [PURPOSE],
        partial(open_signer, key_dir=settings.key_dir),
        clock=clock,
        tls=settings.tls(),
        watcher="witness",
    )
    try:
        await ring.start()
        await _wait_for_key(ring)
    except BaseException:
        await ring.close()
        raise
    tokens = None
    if settings.signing_token_s:
        tokens = SigningTokens(
            ring,
            clock=clock,
            lifetime_s=settings.signing_token_s,
            max_uses=settings.signing_token_uses,
        )
        tokens.start()
    signer = BatchSigner(
        ring,
        clock=clock,
        max_statements=settings.max_signed_statements,
        max_queued_statements=settings.max_waiting_statements,
        signatures_in_flight=settings.signatures_in_flight,
        tokens=tokens,
    )
    witness = Witness(
        signer,
        max_in_work=settings.max_waiting_statements,
        max_answer_bytes=max_answer_bytes,
    )

    async def close() -> None:
        await witness.close()
        if tokens is not None:
            await tokens.close()
        await ring.close()

    servicer = WitnessServicer(witness, clock=clock, max_items=settings.max_batch_items, ring=ring)
    return App(
        services=[(witness_pb2_grpc.add_WitnessServiceServicer_to_server, servicer)],
        close=close,
        ready=signer.check_ready,
        limits=limits(settings.max_batch_items),
    )


async def _wait_for_key(ring: KeyRing) -> None:
    while True:
        try:
            await ring.wait_for(PURPOSE, _PATIENCE_S)
        except UnavailableError as error:
            log.warning("witness.waiting_for_key", reason=error.reason)
        else:
            return


def _answer_bytes(settings: Settings) -> int:
    """Return how many bytes of statements and payloads fit into one response; or ConfigError."""
    around = (
        settings.max_batch_items * _BYTES_AROUND_ITEM
        + settings.max_signed_statements * _LEAF_HASH_BYTES
    )
    left = settings.max_message_bytes - around
    if left < MAX_PAYLOAD_BYTES + MAX_STATEMENT_BYTES:
        raise ConfigError(
            "PROVLEDGER_WITNESS_MAX_MESSAGE_BYTES: too small for the answer to one large draft"
        )
    return left
