"""`keys revoke`: take a key out of use for good, and say what of its work stands."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger import names
from provledger_cli import output
from provledger_cli.failures import CommandError
from provledger_cli.options import (
    DataDirOption,
    EndpointOption,
    JSONOption,
    TimeoutOption,
    TLSCAOption,
    TLSCertOption,
    TLSKeyOption,
)

if TYPE_CHECKING:
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.ceremonies.recovery import OpenRecovery, RecoveryKey
    from provledger_cli.connect import Remote, Target


def revoke(
    kid: Annotated[
        str,
        typer.Argument(envvar="PROVLEDGER_KID", help="Key id to revoke.", show_default=False),
    ],
    reason: Annotated[
        str,
        typer.Option(
            "--reason",
            envvar="PROVLEDGER_REVOKE_REASON",
            help="Why; it is published.",
            show_default=False,
        ),
    ],
    after: Annotated[
        list[Path] | None,
        typer.Option(
            "--after",
            envvar="PROVLEDGER_REVOKE_AFTER",
            help="A signed checkpoint held outside, from before the key was stolen: what it covers "
            "stands. Once for each log. Without it, nothing the key signed counts.",
            show_default=False,
        ),
    ] = None,
    replace_by: Annotated[
        str,
        typer.Option(
            "--replace-by",
            envvar="PROVLEDGER_REVOKE_REPLACE_BY",
            metavar="NEW",
            help="Key id of a new key, needed if the key is active: it replaces it at once.",
            show_default=False,
        ),
    ] = "",
    uri: Annotated[
        str,
        typer.Option(
            "--uri",
            envvar="PROVLEDGER_ROTATE_URI",
            help="Where the key of --replace-by is, if it is not to be made beside the revoked "
            "one: when that provider is away, or not trusted any more.",
            show_default=False,
        ),
    ] = "",
    create: Annotated[
        bool,
        typer.Option(
            "--create",
            envvar="PROVLEDGER_ROTATE_CREATE",
            help="Make the key at --uri if there is none (local: and pkcs11:).",
        ),
    ] = False,
    recovery: Annotated[
        str,
        typer.Option(
            "--recovery-key",
            envvar="PROVLEDGER_RECOVERY_KEY",
            metavar="FILE|URI",
            help="The recovery key: its file, or its key URI, as `keys init` takes it. Needed to "
            "replace an active key that cannot sign or must not be asked. Default: the one in the "
            "data directory, if it is there still.",
            show_default=False,
        ),
    ] = "",
    data_dir: DataDirOption = None,
    endpoint: EndpointOption = None,
    timeout: TimeoutOption = 30.0,
    tls_cert: TLSCertOption = None,
    tls_key: TLSKeyOption = None,
    tls_ca: TLSCAOption = None,
    as_json: JSONOption = False,
) -> None:
    """Revoke a key: at once in the registry, then in the key ledger.

    A thief can write any time into what he signs, so no time is asked for: what an outside
    checkpoint from before covers stands, everything else the key signed does not.

    Example: keys revoke witness-1 --after kept/checkpoint.txt --reason "laptop stolen"
    """
    from provledger_cli.ceremonies.recovery import recovery_key
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    names.check_kid(kid)
    if replace_by:
        names.check_kid(replace_by)
    where = target(
        data_dir, endpoint, first="keys", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    covered = [path.read_bytes() for path in after or ()]
    new = (replace_by, uri, create)
    by = recovery_key(where, recovery)
    done, told, unused = run_async(_revoke(where, kid, reason, covered, new, by, timeout))
    if as_json:
        output.document(done)
        _check_done(done, told, unused, timeout)
        return
    output.show(
        f"[bold]{output.literal(kid)}[/] is revoked, after {output.seconds(done['seconds'])}"
    )
    rows = [
        ("stands", _standing(done["after"])),
        ("replaced by", done["replaced_by"] or f"(was not active; {done['active'] or 'none'} is)"),
        ("key ledger", done["receipt"] or ("(none to write)" if told else "(not recorded yet)")),
    ]  # fmt: skip
    output.show(output.card("", rows))
    if told:
        output.say("[bold]next:[/] give verifiers the new keys: keys jwks --out jwks.json")
    _check_done(done, told, unused, timeout)


def _standing(after: list[dict[str, str]] | None) -> str:
    """What stands, as it is shown."""
    if after is None:
        return "(cannot be told)"
    return ", ".join(f"{each['origin']} up to {each['size']}" for each in after) or (
        "nothing it signed"
    )


def _check_done(
    done: dict[str, Any], told: bool, unused: keys_pb2.Key | None, timeout_s: float
) -> None:
    """Raise CommandError where the key is revoked, and the rest of what was asked for is not so.

    told: whether the key ledger says it.
    unused: the new key, if it did not take the place.
    """
    from provledger_cli.ceremonies.registry import state_name

    kid, purpose = done["key"]["kid"], done["key"]["purpose"]
    wrong, hints = [], []
    if not told:
        wrong.append(
            f"the key ledger does not say so after {timeout_s:.0f} s: who verifies by it takes "
            "what the key signed"
        )
        hints.append(
            "the log of the ledger service says what its event waits for; running the same "
            "command again waits for it"
        )
    if unused is not None:
        new, active = unused.kid, done["active"] or "none"
        wrong.append(
            f"{new} ({state_name(unused)}) did not take its place: another ceremony came first, "
            f"and the active {purpose} key is {active}"
        )
        # Key ids are never used again: of one that was revoked, nothing comes any more.
        other = new if state_name(unused) == "pending" else "NEW"
        hints.append(
            f"where {active} is as it should be, leave it so; if {other} is to sign: keys rotate "
            f"--kid {other} --purpose {purpose}, or, where {active} is not to be trusted, keys "
            f"revoke {active} --replace-by {other}"
        )
    if wrong:
        raise CommandError(f"{kid} is revoked, but {'; and '.join(wrong)}", hint="; ".join(hints))


async def _revoke(
    where: Target,
    kid: str,
    reason: str,
    after: list[bytes],
    new: tuple[str, str, bool],
    recovery: RecoveryKey | None,
    timeout_s: float,
) -> tuple[dict[str, Any], bool, keys_pb2.Key | None]:
    """What was done, whether the key ledger says so, and the new key if it is not used."""
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.ceremonies import ceremony
    from provledger_cli.ceremonies.recovery import opened
    from provledger_cli.ceremonies.registry import (
        key_document,
        known_key,
        list_keys,
        purpose_name,
        state_name,
    )
    from provledger_cli.connect import Remote

    started_s = time.monotonic()
    replace_by = new[0]
    async with Remote(where, timeout_s=timeout_s) as remote:
        known = await known_key(remote, kid)
        if known is None:
            raise CommandError(f"there is no key {kid}", hint="see `keys list`")
        purpose = purpose_name(known)
        replaced = state_name(known) == "active"
        if replaced and not replace_by:
            raise CommandError(
                f"{kid} is the active {purpose} key",
                hint="name the key that takes its place: --replace-by NEW",
            )
        covered = await _covered(remote, after)
        request = keys_pb2.RevokeKeyRequest(kid=kid, reason=reason, after=covered)
        # Before anything is changed: a revocation is not taken back for want of the recovery key.
        async with opened(remote, recovery) as endorser:
            if replaced:
                await _prepare(remote, new, known, recovery, endorser, timeout_s)
                if recovery is not None:
                    request.replacement_kid = replace_by
            answer = await remote.call(remote.keys.RevokeKey, request)
            if endorser is not None:
                await endorser.endorse(remote, {kid, replace_by})
        stands = await _stands(remote, kid)
        if replace_by:
            await ceremony.check_endorsed(remote, replace_by)
        receipt = await ceremony.wait_recorded(remote, kid, timeout_s)
        # Where another ceremony came first, the service has revoked the key and replaced nothing.
        listed = await list_keys(remote, purpose)
        active = next((key.kid for key in listed if state_name(key) == "active"), None)
        unused = next((key for key in listed if key.kid == replace_by and key.epoch == 0), None)
        if replaced and active is not None:
            await ceremony.wait_until_used(remote, purpose, active, 10.0, output.say)
    done = {
        "key": key_document(answer.key),
        "after": stands,
        "replaced_by": replace_by if replaced and unused is None else None,
        "active": active,
        "receipt": receipt or None,
        "seconds": round(time.monotonic() - started_s, 3),
    }
    return done, receipt is not None, unused


async def _prepare(
    remote: Remote,
    new: tuple[str, str, bool],
    old: keys_pb2.Key,
    recovery: RecoveryKey | None,
    endorser: OpenRecovery | None,
    timeout_s: float,
) -> None:
    """Make the new key, which a service can use; without a recovery key, rotate to it.

    Raises:
        CommandError: no service shows that it can sign with it; nothing was revoked.
    """
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.ceremonies import ceremony
    from provledger_cli.ceremonies.new_key import new_key
    from provledger_cli.ceremonies.registry import purpose_name

    replace_by, at, create_it = new
    uri, jwk = await new_key(remote, replace_by, purpose_name(old), uri=at, create=create_it)
    if recovery is None:
        by = f"{old.kid} itself has to endorse {replace_by}"
        output.say(output.literal(f"without a recovery key, {by}"))
        rotate = keys_pb2.RotateKeyRequest(kid=replace_by, purpose=old.purpose, uri=uri, jwk=jwk)
        await remote.call(remote.keys.RotateKey, rotate)
        await ceremony.wait_until_active(remote, replace_by, timeout_s, output.say)
        return
    create = keys_pb2.CreateKeyRequest(kid=replace_by, purpose=old.purpose, uri=uri, jwk=jwk)
    await remote.call(remote.keys.CreateKey, create)
    if endorser is not None:
        # So that nobody waits for the old key's word. Then: a key that took another's place and
        # cannot sign would stop all appends.
        await endorser.endorse(remote, {replace_by})
        await ceremony.wait_until_usable(
            remote, replace_by, purpose_name(old), timeout_s, output.say
        )


async def _stands(remote: Remote, kid: str) -> list[dict[str, str]] | None:
    """What of a revoked key's work stands, as the registry has it and publishes it; None if that
    cannot be had, as of a JWK Set that is too large: the key is revoked all the same."""
    from provledger.api.keys.v1 import keys_pb2
    from provledger.errors import StatusError
    from provledger.keyset import KeySet

    try:
        answer = await remote.call(remote.keys.GetJwks, keys_pb2.GetJwksRequest())
    except StatusError as error:
        output.say(output.literal(f"what stands of {kid} cannot be told: {error.message}"))
        return None
    return [
        {"origin": each.origin, "size": str(each.size)}
        for key in KeySet.parse(answer.jwks)
        if key.kid == kid
        for each in key.covered
    ]


async def _covered(remote: Remote, signed: list[bytes]) -> list[keys_pb2.CoveredCheckpoint]:
    """Read the checkpoints, each signed by a checkpoint key of the registry.

    Without any, nothing is asked for: there may be too many keys for a JWK Set.
    """
    from provledger import checkpoint as checkpoints
    from provledger import note
    from provledger.api.keys.v1 import keys_pb2
    from provledger.errors import InputError, InvalidSignatureError
    from provledger.keyset import KeyPurpose, KeySet

    if not signed:
        return []
    answer = await remote.call(remote.keys.GetJwks, keys_pb2.GetJwksRequest())
    keys = KeySet.parse(answer.jwks).for_purpose(KeyPurpose.CHECKPOINT)
    found = []
    for data in signed:
        try:
            origin = data.decode().partition("\n")[0]
            vkeys = [note.parse_vkey(key.vkey(origin)) for key in keys]
            checkpoint, _ = checkpoints.open_checkpoint(data, vkeys, origin=origin)
        except (InputError, InvalidSignatureError, UnicodeDecodeError) as error:
            raise CommandError(
                f"--after: not a checkpoint of this installation: {error}",
                hint="give a signed checkpoint that was kept from before the key was stolen: one "
                "that a sink holds, or that `provledger export --checkpoint-out` wrote",
            ) from None
        found.append(
            keys_pb2.CoveredCheckpoint(
                origin=checkpoint.origin, size=checkpoint.size, root=checkpoint.root
            )
        )
    return found
