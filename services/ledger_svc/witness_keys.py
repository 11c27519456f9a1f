"""Which signatures of the witness are taken: those of keys that the keys service lets sign.

The witness is trusted to check drafts, not to say who signed: a batch under another key, or under
none, would be a part of the chain that no verifier takes, and that nobody could take out again.
"""

from __future__ import annotations

from typing import Final

from ledger_svc.chain import Seal
from ledger_svc.key_registry import AnyRegistry, Registry
from ledger_svc.stated import refuse_answer
from ledger_svc.tools import StaleSignatureError
from provledger import dsse
from provledger.errors import VerificationError
from provledger.keyring import KeyRing
from provledger.keyset import KeyPurpose
from provledger.witness_batch import PAYLOAD_TYPE, check_signature, check_times, parse_body

_WAIT_FOR_KEY_S: Final = 2.0


class RingPolicy:
    """Takes the keys that the keys service says are active or draining, by what they signed."""

    def __init__(self, ring: KeyRing, registry: Registry | None = None) -> None:
        self._ring = ring
        self._registry = registry or AnyRegistry()

    def accepts(self, kid: str, epoch: int) -> bool:
        """Whether the key is active or draining."""
        return self._ring.accepts(KeyPurpose.WITNESS, kid, epoch)

    async def wait_accepts(self, kid: str, epoch: int) -> bool:
        """As `accepts`, but wait a little for the news of a new key.

        Raises:
            FailedPreconditionError: KEY_REGISTRY_BEHIND; what says so may just have been heard for
                the first time.
        """
        accepted = self._ring.accepts(KeyPurpose.WITNESS, kid, epoch)
        if not accepted:
            accepted = await self._ring.wait_accepts(
                KeyPurpose.WITNESS, kid, epoch, _WAIT_FOR_KEY_S
            )
        await self._registry.check()
        return accepted

    def check_signature(self, seal: Seal) -> None:
        """As a verifier will, but for what only time shows: a later revocation.

        Once for each flush; an Ed25519 verification is some 60 microseconds.

        Raises:
            StaleSignatureError: the key is not taken any more, or was not valid at the time that
                the witness names.
            InternalError: WITNESS_ANSWER, the key that the batch names did not sign it.
            UnavailableError: KEY_LEASE_EXPIRED.
        """
        batch = parse_body(seal.body)
        try:
            key = self._ring.key_set().find(
                purpose=KeyPurpose.WITNESS, kid=batch.kid, epoch=batch.epoch
            )
            check_times(batch, key)
        except VerificationError as error:
            raise StaleSignatureError(str(error)) from error
        if key.thumbprint != batch.thumbprint:
            raise refuse_answer(f"its body names another key than {batch.kid!r} by thumbprint")
        try:
            check_signature(batch, dsse.pae(PAYLOAD_TYPE, seal.body), seal.sig, key)
        except VerificationError as error:
            raise refuse_answer(str(error)) from error
