"""What the anchor asks of its keys: the part of `provledger.keyring.KeyRing` it uses."""

from __future__ import annotations

from typing import Final, Protocol

from anchor_svc.state import LogState
from provledger.errors import KMSError, UnavailableError
from provledger.keyring import ActiveSigner
from provledger.keyset import KeyPurpose, VerificationKey

SIGN_TIMEOUT_S: Final = 5.0
"""How long one signature may take before the provider counts as away."""

OVERLAP_TIMEOUT_S: Final = 2.0
"""How long a flush waits for a key that was replaced already, whose signature is an extra."""


class Keys(Protocol):
    """Keys to sign with now."""

    def current(self, purpose: KeyPurpose | str) -> ActiveSigner:
        """The key for a purpose; UnavailableError if there is none, or nobody knows."""
        ...


class LogKeys:
    """The keys as one log may use them: not at all while it is held."""

    def __init__(self, keys: Keys, state: LogState) -> None:
        self._keys = keys
        self._state = state

    def current(self, purpose: KeyPurpose | str) -> ActiveSigner:
        """As `Keys.current`; raises why the log is held, if it is."""
        self._state.check_held()
        return self._keys.current(purpose)

    def all_current(self, purpose: KeyPurpose) -> tuple[ActiveSigner, ...]:
        """As `all_signers`; raises why the log is held, if it is."""
        self._state.check_held()
        return all_signers(self._keys, purpose)


def all_signers(keys: Keys, purpose: KeyPurpose) -> tuple[ActiveSigner, ...]:
    """The keys that sign for a purpose now, the current one first."""
    several = getattr(keys, "all_current", None)
    found: tuple[ActiveSigner, ...] = (
        (keys.current(purpose),) if several is None else several(purpose)
    )
    return found


def vkey(key: ActiveSigner, origin: str) -> str:
    """The verifier key of a checkpoint key (c2sp.org/signed-note), named like the origin."""
    return VerificationKey.from_public_key(
        key.public_key, kid=key.kid, purpose=key.purpose, epoch=key.epoch
    ).vkey(origin)


def signing_failed(what: str, error: KMSError | TimeoutError) -> UnavailableError:
    """What callers are told when a key could not sign: nothing is lost, try again."""
    reason = str(getattr(error, "reason", "")) or "KMS_UNAVAILABLE"
    delay_s = getattr(error, "retry_delay_s", None)
    return UnavailableError(
        "SIGNING_UNAVAILABLE",
        f"{what} could not be signed for now ({reason}); what was sent is kept, try again",
        metadata={"cause": reason},
        retry_delay_s=1.0 if delay_s is None else float(delay_s),
    )
