"""Whom `verify` believes outside of the operator's reach, from its options."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from provledger.errors import KeyFormatError, VerificationError
from provledger.outside import AskStore, ObjectLock, Outside
from provledger.policy import MAX_POLICY_BYTES, parse_policy
from provledger.report import Check, Finding
from provledger.timestamp import Authority
from provledger_cli.failures import CommandError

if TYPE_CHECKING:
    from provledger.s3 import Lock

_MISSING: Final = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NotFound", "NoSuchBucket"})
_TIMEOUT_S: Final = 10


def outside(
    policy: Path | None, tsa_certs: Sequence[Path], tsa_chains: Sequence[Path], *, online: bool
) -> Outside:
    """What the options say; raises CommandError, PolicyError or OSError."""
    if bool(tsa_certs) != bool(tsa_chains):
        raise CommandError("--tsa-cert and --tsa-chain belong together")
    chain = b"\n".join(path.read_bytes() for path in tsa_chains)
    authorities = tuple(_authority(path, chain) for path in tsa_certs)
    trusted = None
    if policy is not None:
        with policy.open("rb") as file:
            trusted = parse_policy(file.read(MAX_POLICY_BYTES + 1))
    return Outside(trusted, authorities, ask_s3() if online else None)


def _authority(path: Path, chain: bytes) -> Authority:
    try:
        return Authority.from_pem(path.read_bytes(), chain)
    except KeyFormatError as error:
        raise CommandError(
            f"--tsa-cert {path}, or its --tsa-chain: {error}",
            hint="--tsa-cert takes a PEM file with the certificate of one authority alone, "
            "--tsa-chain those above it up to a root",
        ) from error


def ask_s3(client: Any = None) -> AskStore:
    """Asks S3 for locked copies, with the credentials, region and endpoint that boto3 finds.

    Each copy is asked for by its version: that it is there and the very checkpoint, that it is
    locked in the mode and for as long as the evidence says, and under legal hold if it says so. A
    lock that was made longer since is as good. What the store does not let us see is not known,
    and never counts as gone: CommandError. Needs s3:GetObjectVersion, s3:GetObjectRetention, and
    for copies under legal hold s3:GetObjectLegalHold.
    """
    asked: set[ObjectLock] = set()

    def ask(lock: ObjectLock, signed: bytes) -> None:
        nonlocal client
        if lock in asked:
            return
        try:
            from botocore.exceptions import ClientError

            from provledger import s3

            lost = s3.lost_errors()
        except ImportError as error:
            raise CommandError("--online needs the extra: install provledger[aws]") from error
        place = {"Bucket": lock.bucket, "Key": lock.key, "VersionId": lock.version_id}
        try:
            client = client or _s3_client()
            found = client.get_object(**place)
            if s3.read_body(found, len(signed) + 1) != signed:
                raise _broken("the locked copy is of another checkpoint")
            _check_lock(s3.object_lock(client, place, found, legal_hold=lock.legal_hold), lock)
        except ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise _broken(f"the locked copy is gone: {code}") from error
            raise CommandError(
                f"the store says {code} to {error.operation_name}",
                hint="it must let you read the versions, retentions and legal holds of objects",
            ) from error
        except lost as error:
            raise CommandError(
                # Its text may quote the proxy with a password.
                f"the store cannot be asked: {type(error).__name__}",
                hint="see that boto3 finds credentials, a region, and with AWS_ENDPOINT_URL_S3 "
                "the address of a store other than AWS",
            ) from error
        asked.add(lock)

    return ask


def _check_lock(found: Lock, lock: ObjectLock) -> None:
    """Check that a version is locked as its evidence says; raises VerificationError."""
    if found.mode is None:
        raise _broken("the copy is there, but not locked any more")
    if found.mode != lock.mode:
        raise _broken(f"the copy is locked in mode {found.mode}, not {lock.mode}")
    if found.until is None or int(found.until.timestamp()) < lock.retain_until_unix_s:
        raise _broken("the copy is locked for a shorter time than the evidence says")
    if lock.legal_hold and not found.legal_hold:
        raise _broken("the copy is not under legal hold any more")


def _s3_client() -> Any:
    import boto3
    from botocore.config import Config

    from provledger.boto_bounds import Bounds, bind

    config = Config(
        connect_timeout=_TIMEOUT_S,
        read_timeout=_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": 3},
        # Stores other than AWS seldom have a host name for each bucket.
        s3={"addressing_style": "path"} if os.environ.get("AWS_ENDPOINT_URL_S3") else {},
    )
    return bind(boto3.client("s3", config=config), Bounds(_TIMEOUT_S))


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _broken(message: str) -> VerificationError:
    return VerificationError(message, check=Check.OBJECT_LOCK, finding=Finding.PROOF_INVALID)
