"""The recovery key as commands take it: a file, or the key URI that `keys init` took it by.

::

    recovery-1.pem, /media/usb/recovery-1.pem         a file, as the shell names it
    local:/media/usb/r.pem?passphrase-file=r.txt      an encrypted one
    pkcs11:..., aws-kms:..., gcp-kms:...              wherever else it is

A path is never read as a URI: what stands in the names of its directories is left alone.

What the recovery key endorses is in force before that, and is not taken back where it then turns
out that it cannot. So it is opened, compared with the key ledger's genesis, and has to sign a line
that says nothing, before anything is changed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from provledger.api.keys.v1 import keys_pb2
from provledger.errors import KMSError
from provledger.jwk import thumbprint_of
from provledger.kms import Signer, check_uri, open_signer
from provledger.kms.registry import is_uri
from provledger.kms.signing import self_test
from provledger_cli.ceremonies.registry import list_key_events
from provledger_cli.connect import Remote, Target
from provledger_cli.embedded.bootstrap import endorse_with
from provledger_cli.embedded.config import RECOVERY_KID
from provledger_cli.failures import CommandError

_HINT = "give --recovery-key FILE, or the key's URI"
_HINT_KEPT = "give the right one by --recovery-key, or take this file away to do without"


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """Where the recovery key is. Relative paths of a `local:` URI begin in `key_dir`.

    `name` is what errors call it, `hint` what to do about one that cannot be used.
    """

    uri: str
    key_dir: Path
    name: str
    hint: str = _HINT

    @classmethod
    def in_file(cls, path: Path) -> RecoveryKey:
        """The key in an unencrypted file; raises CommandError for a name no URI can hold."""
        # Only the name goes into the URI, where a question mark begins its query.
        if "?" in path.name:
            raise CommandError(
                f"{path}: a key file's name must be without a question mark", hint="rename it"
            )
        return cls(f"local:{path.name}", path.absolute().parent, str(path))


def recovery_key(where: Target, given: str) -> RecoveryKey | None:
    """The recovery key that was given, by path or URI; else the one of the data directory, if any.

    Raises:
        CommandError: the file is not there, or the URI has no form that we know.
    """
    if not given:
        kept = where.data_dir.keys / f"{RECOVERY_KID}.pem"
        if not where.embedded or not kept.is_file():
            return None
        return replace(RecoveryKey.in_file(kept), hint=_HINT_KEPT)
    if is_uri(given):
        try:
            check_uri(given)
        except KMSError as error:
            raise CommandError(f"--recovery-key: {error}", hint=_HINT) from None
        return RecoveryKey(given, where.data_dir.keys, given)
    path = Path(given)
    if not path.is_file():
        raise CommandError(f"{given} is not there", hint=_HINT)
    return RecoveryKey.in_file(path)


@dataclass(frozen=True, slots=True)
class OpenRecovery:
    """The recovery key of a key ledger, opened; `kid` is what the key ledger calls it."""

    signer: Signer
    kid: str

    async def endorse(self, remote: Remote, kids: set[str]) -> int:
        """Endorse all open events about `kids`; how many there were.

        Raises:
            CommandError: the key does not sign any more.
        """
        done = 0
        for each in await list_key_events(remote):
            if each.event.kid in kids and each.state == keys_pb2.KEY_EVENT_STATE_PROPOSED:
                try:
                    await endorse_with(remote.keys, remote.policy, each, self.kid, self.signer)
                except KMSError as error:
                    raise CommandError(
                        f"the recovery key does not sign: {error}",
                        hint="what it has to endorse stays open: run the same command again",
                    ) from None
                done += 1
        return done


@asynccontextmanager
async def opened(
    remote: Remote, recovery: RecoveryKey | None
) -> AsyncIterator[OpenRecovery | None]:
    """Open the recovery key; None where there is none at hand, or no key ledger to compare with.

    Raises:
        CommandError: it cannot be opened, is another than the key ledger's, or does not sign.
    """
    events = await list_key_events(remote) if recovery is not None else []
    if recovery is None or not events:
        yield None
        return
    hint = f"nothing was changed; {recovery.hint}"
    try:
        signer = await open_signer(recovery.uri, recovery.key_dir)
    except KMSError as error:
        raise CommandError(f"the recovery key cannot be opened: {error}", hint=hint) from None
    try:
        genesis = events[0].event
        found = thumbprint_of(signer.public_key)
        if found != genesis.thumbprint:
            raise CommandError(
                f"{recovery.name} is not the recovery key of this installation: its "
                f"thumbprint is {found.hex()}, not {genesis.thumbprint.hex()}",
                hint=hint,
            )
        try:
            await self_test(signer, signer.public_key)
        except KMSError as error:
            raise CommandError(f"the recovery key does not sign: {error}", hint=hint) from None
        yield OpenRecovery(signer, genesis.kid)
    finally:
        await signer.close()
