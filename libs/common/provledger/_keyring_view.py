"""What the keys service said last, as values: the parts of `provledger.keyring` without tasks.

Everything here is immutable and is replaced as a whole. Reads the messages of `WatchKeys`; what is
wrong with one key in them is logged and that key left out, so that it cannot take the others along.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from provledger import jcs, logs
from provledger._keyring_opened import opened_as
from provledger.api.keys.v1 import keys_pb2 as pb
from provledger.errors import InputError, UnavailableError
from provledger.jwk import Algorithm, PublicKey, public_key_from_jwk
from provledger.key_events import KeyEvent
from provledger.keyset import KeyPurpose, KeySet, KeyState, VerificationKey
from provledger.kms import Signer
from provledger.kms.errors import KMSIntegrityError

log = logs.get(__name__)

MAX_CLOCK_LAG_NS: Final = 300 * 1_000_000_000
"""How far our clock may be behind that of the keys service, nanoseconds."""

_PURPOSES: Final = {
    pb.KEY_PURPOSE_WITNESS: KeyPurpose.WITNESS,
    pb.KEY_PURPOSE_CHECKPOINT: KeyPurpose.CHECKPOINT,
    pb.KEY_PURPOSE_HEAD: KeyPurpose.HEAD,
    pb.KEY_PURPOSE_RECEIPT: KeyPurpose.RECEIPT,
}
_STATES: Final = {
    pb.KEY_STATE_ACTIVE: KeyState.ACTIVE,
    pb.KEY_STATE_DRAINING: KeyState.DRAINING,
}
_PENDING: Final = {pb.KEY_STATE_PENDING: KeyState.PENDING}


@dataclass(frozen=True, slots=True)
class ActiveSigner:
    """A key to sign with, and everything that has to be said about it, as of one moment.

    `thumbprint` is 32 bytes; `not_before_ns` and `not_after_ns` are Unix nanoseconds, the latter
    set only while the key drains.
    """

    kid: str
    purpose: KeyPurpose
    epoch: int
    thumbprint: bytes
    public_key: PublicKey = field(repr=False, compare=False)
    algorithm: Algorithm
    signer: Signer = field(repr=False, compare=False)
    not_before_ns: int
    not_after_ns: int | None

    def signing_time_ns(self, now_ns: int) -> int:
        """Return the time to sign at: `now_ns`, or the start of validity if our clock lags.

        A key activated by a keys service whose clock is a little ahead of ours would otherwise
        make signatures that never count. Raises UnavailableError (CLOCK_SKEW) if it lags by more
        than five minutes, (NO_ACTIVE_KEY) once the key no longer counts.
        """
        if self.not_before_ns - now_ns > MAX_CLOCK_LAG_NS:
            raise UnavailableError(
                "CLOCK_SKEW",
                f"this machine's clock is {(self.not_before_ns - now_ns) // 1_000_000_000} s "
                f"behind the start of key {self.kid!r}: set it if it is behind; if it is right, it "
                "was ahead when the key was made or rotated to (see docs/runbooks/kms-rotate.md)",
                metadata={"kid": self.kid},
            )
        if self.not_after_ns is not None and now_ns > self.not_after_ns:
            raise no_active_key(self.purpose)
        return max(now_ns, self.not_before_ns)


@dataclass(frozen=True, slots=True)
class View:
    """What the keys service last said. `lease_until_ns` is on our lease clock."""

    revision: int = -1
    lease_until_ns: int = -1
    keys: KeySet = field(default_factory=KeySet)
    uris: Mapping[str, str] = field(default_factory=dict)
    pending: KeySet = field(default_factory=KeySet)
    open_events: tuple[pb.JournaledKeyEvent, ...] = ()
    lease_s: float = 0.0

    @classmethod
    def from_pb(cls, response: pb.WatchKeysResponse, received_ns: int) -> Self:
        """Read a message that came at `received_ns`; raises KeyFormatError if keys occur twice."""
        keys = [key for each in response.keys if (key := _read_key(each)) is not None]
        return cls(
            revision=response.revision,
            lease_until_ns=received_ns + response.lease_ms * 1_000_000,
            keys=KeySet(keys),
            uris={each.kid: each.uri for each in response.keys},
            pending=KeySet(
                key for each in response.keys if (key := _read_key(each, _PENDING)) is not None
            ),
            open_events=tuple(response.open_events),
            lease_s=response.lease_ms / 1000,
        )

    def announces(self, event: KeyEvent) -> bool:
        """Say whether the keys service proposes this very event, and has not taken it back."""
        digest = event.digest()
        return any(each.digest == digest for each in self.open_events)

    def candidates(self, purpose: KeyPurpose) -> list[VerificationKey]:
        """Return the keys that may sign for `purpose`, the best one first."""
        return sorted(
            self.keys.for_purpose(purpose),
            key=lambda key: (key.state is not KeyState.ACTIVE, -key.epoch),
        )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What the ring answers from; replaced as a whole, so that nobody sees half a rotation."""

    view: View
    signers: Mapping[KeyPurpose, ActiveSigner]
    # All keys of a purpose that are open and may sign, the best one first.
    all_signers: Mapping[KeyPurpose, tuple[ActiveSigner, ...]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        view: View,
        purposes: Iterable[KeyPurpose],
        opened: Mapping[tuple[str, bytes], Signer],
    ) -> Self:
        """Take for each purpose the best key of `view` among those `opened`."""
        signers: dict[KeyPurpose, ActiveSigner] = {}
        all_signers: dict[KeyPurpose, tuple[ActiveSigner, ...]] = {}
        for purpose in purposes:
            all_signers[purpose] = tuple(
                _active_signer(key, opened[name])
                for key in view.candidates(purpose)
                if (name := opened_as(key, view.uris[key.kid])) in opened
            )
            if all_signers[purpose]:
                signers[purpose] = all_signers[purpose][0]
        return cls(view, signers, all_signers)


def _active_signer(key: VerificationKey, signer: Signer) -> ActiveSigner:
    return ActiveSigner(
        kid=key.kid,
        purpose=key.purpose,
        epoch=key.epoch,
        thumbprint=key.thumbprint,
        public_key=key.public_key,
        algorithm=key.algorithm,
        signer=signer,
        not_before_ns=key.not_before_ns,
        not_after_ns=key.not_after_ns,
    )


def _read_key(key: pb.Key, states: Mapping[Any, KeyState] = _STATES) -> VerificationKey | None:
    """Read a key in one of `states`; None for others, for unknown purposes, and for damage."""
    purpose, state = _PURPOSES.get(key.purpose), states.get(key.state)
    if purpose is None or state is None:
        return None
    try:
        read = VerificationKey.from_public_key(
            public_key_from_jwk(jcs.parse(key.jwk)),
            kid=key.kid,
            purpose=purpose,
            epoch=key.epoch,
            state=state,
            not_before_ns=key.not_before_ns,
            not_after_ns=key.not_after_ns or None,
        )
        if read.thumbprint != key.thumbprint:
            raise KMSIntegrityError("its thumbprint is not that of its JWK")
    except (InputError, KMSIntegrityError) as error:
        log.error("keyring.bad_key", exc_info=error, kid=key.kid)
        return None
    return read


def check_begin(event: KeyEvent, now_ns: int) -> None:
    """Refuse an event by which a key begins further ahead of our clock than we could sign with it.

    Once it is endorsed it goes forward only, and nobody signs until that time has come; as long as
    it is not, it can be taken back.

    Raises:
        UnavailableError: CLOCK_SKEW.
    """
    begins_ns = max(event.not_before_ns, *(key.not_before_ns for key in event.first_keys), 0)
    ahead_ns = begins_ns - now_ns
    if ahead_ns > MAX_CLOCK_LAG_NS:
        seconds = ahead_ns // 1_000_000_000
        raise UnavailableError(
            "CLOCK_SKEW",
            f"by this {event.event.value} a key would begin {seconds} s ahead of this machine's "
            "clock: the clock of the keys service, which says when, is ahead, or this one is "
            "behind. If it is the former, set it, take the rotation back (keys rotate --cancel) "
            "and rotate again; if it is the latter, set it. If both are right, the key that it "
            "replaces was made while one was ahead: see docs/runbooks/kms-rotate.md",
            metadata={"kid": event.kid, "aheadSeconds": str(seconds)},
        )


def no_active_key(purpose: KeyPurpose | str, kid: str = "", because: str = "") -> UnavailableError:
    """Return the error for a purpose without a key that could be opened.

    `kid` is the active one, if there is one, and `because` the reason that it cannot be used. Where
    the key is, and what its provider says, stands in our own log only.
    """
    if not kid:
        return UnavailableError(
            "NO_ACTIVE_KEY",
            f"there is no active {purpose} key; make one: keys rotate --purpose {purpose}",
            metadata={"purpose": str(purpose)},
            retry_delay_s=1.0,
        )
    return UnavailableError(
        "NO_ACTIVE_KEY",
        f"key {kid!r}, the active {purpose} key, cannot be used ({because}); the log of this "
        "service says what its provider answered and what to do",
        metadata={"purpose": str(purpose), "kid": kid, "because": because},
        retry_delay_s=1.0,
    )
