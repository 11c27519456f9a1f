"""The recovery key as commands take it: a file, or the key URI that `keys init` took it by.

::

    recovery-1.pem, /media/usb/recovery-1.pem         a file, as the shell names it
    local:/media/usb/r.pem?passphrase-file=/root/p    an encrypted one
    pkcs11:..., aws-kms:..., gcp-kms:...              wherever else it is

A path is never read as a URI: what stands in the names of its directories is left alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from provledger.errors import KMSError
from provledger.kms import check_uri
from provledger.kms.registry import is_uri
from provledger_cli.config import RECOVERY_KID
from provledger_cli.connect import Target
from provledger_cli.failures import CommandError

_HINT = "give --recovery-key FILE, or the key's URI"


@dataclass(frozen=True, slots=True)
class RecoveryKey:
    """Where the recovery key is. Relative paths of a `local:` URI begin in `key_dir`."""

    uri: str
    key_dir: Path

    @classmethod
    def in_file(cls, path: Path) -> RecoveryKey:
        """The key in an unencrypted file; raises CommandError for a name no URI can hold."""
        # Only the name goes into the URI, where a question mark begins its query.
        if "?" in path.name:
            raise CommandError(
                f"{path}: a key file's name must be without a question mark", hint="rename it"
            )
        return cls(f"local:{path.name}", path.absolute().parent)


def recovery_key(where: Target, given: str) -> RecoveryKey | None:
    """The recovery key that was given, by path or URI; else the one of the data directory, if any.

    Raises:
        CommandError: the file is not there, or the URI has no form that we know.
    """
    if not given:
        kept = where.data_dir.keys / f"{RECOVERY_KID}.pem"
        return RecoveryKey.in_file(kept) if where.embedded and kept.is_file() else None
    if is_uri(given):
        try:
            check_uri(given)
        except KMSError as error:
            raise CommandError(f"--recovery-key: {error}", hint=_HINT) from None
        return RecoveryKey(given, where.data_dir.keys)
    path = Path(given)
    if not path.is_file():
        raise CommandError(f"{given} is not there", hint=_HINT)
    return RecoveryKey.in_file(path)
