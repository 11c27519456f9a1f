"""Whom `verify` believes outside of the operator's reach, from its options."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from provledger.errors import VerificationError
from provledger.outside import AskStore, ObjectLock, Outside
from provledger.policy import MAX_POLICY_BYTES, parse_policy
from provledger.report import Check, Finding
from provledger.timestamp import Authority
from provledger_cli.failures import CommandError

_MISSING: Final = frozenset({"404", "NoSuchKey", "NoSuchVersion", "NotFound", "NoSuchBucket"})


def outside(
    policy: Path | None, tsa_cert: Path | None, tsa_chain: Path | None, *, online: bool
) -> Outside:
    """What the options say; raises CommandError, PolicyError, KeyFormatError or OSError."""
    if (tsa_cert is None) != (tsa_chain is None):
        raise CommandError("--tsa-cert and --tsa-chain belong together")
    authorities: tuple[Authority, ...] = ()
    if tsa_cert is not None and tsa_chain is not None:
        authorities = (Authority.from_pem(tsa_cert.read_bytes(), tsa_chain.read_bytes()),)
    trusted = None
    if policy is not None:
        with policy.open("rb") as file:
            trusted = parse_policy(file.read(MAX_POLICY_BYTES + 1))
    return Outside(trusted, authorities, ask_s3() if online else None)


def ask_s3(client: Any = None) -> AskStore:
    """Asks S3 for locked copies, with the credentials and endpoint that boto3 finds."""
    asked: set[ObjectLock] = set()

    def ask(lock: ObjectLock, signed: bytes) -> None:
        nonlocal client
        if lock in asked:
            return
        try:
            import boto3
            from botocore.exceptions import BotoCoreError, ClientError
        except ImportError as error:
            raise CommandError("--online needs the extra: install provledger[aws]") from error
        place = {"Bucket": lock.bucket, "Key": lock.key, "VersionId": lock.version_id}
        try:
            client = client or boto3.client("s3")
            found = client.get_object(**place)
            data = found["Body"].read(len(signed) + 1)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code not in _MISSING:
                raise CommandError(f"the store says {code}") from error
            raise _broken("the locked copy is gone") from error
        except BotoCoreError as error:
            raise CommandError(f"the store cannot be asked: {error}") from error
        if data != signed:
            raise _broken("the locked copy is of another checkpoint")
        until = found.get("ObjectLockRetainUntilDate")
        if (
            found.get("ObjectLockMode") != lock.mode
            or until is None
            or int(until.timestamp()) < lock.retain_until_unix_s
        ):
            raise _broken("the copy is there, but not locked as the receipt says")
        asked.add(lock)

    return ask


def _broken(message: str) -> VerificationError:
    return VerificationError(message, check=Check.OBJECT_LOCK, finding=Finding.PROOF_INVALID)
