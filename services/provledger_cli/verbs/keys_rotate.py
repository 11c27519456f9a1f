"""`keys rotate`: replace the active key of a purpose, with no failed write."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
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
from provledger_cli.verbs.keys_list import Purpose

if TYPE_CHECKING:
    from provledger_cli.ceremonies.recovery import OpenRecovery, RecoveryKey
    from provledger_cli.connect import Remote, Target


def rotate(
    kid: Annotated[
        str,
        typer.Option(
            "--kid",
            envvar="PROVLEDGER_KID",
            help="Key id of the new key; never one that was used before.",
            show_default=False,
        ),
    ],
    purpose: Annotated[
        Purpose,
        typer.Option("--purpose", envvar="PROVLEDGER_PURPOSE", help="What it signs."),
    ] = Purpose.WITNESS,
    uri: Annotated[
        str,
        typer.Option(
            "--uri",
            envvar="PROVLEDGER_ROTATE_URI",
            help="A key that its signing service can open. Default: a new one is made where the "
            "current one is, with the rights that this command has there.",
            show_default=False,
        ),
    ] = "",
    jwk: Annotated[
        Path | None,
        typer.Option(
            "--jwk",
            envvar="PROVLEDGER_ROTATE_JWK",
            help="Public half of the key at --uri, as JWK, where this command cannot open it.",
            show_default=False,
        ),
    ] = None,
    create: Annotated[
        bool,
        typer.Option(
            "--create",
            envvar="PROVLEDGER_ROTATE_CREATE",
            help="Make the key at --uri if there is none (local: and pkcs11:).",
        ),
    ] = False,
    cancel: Annotated[
        bool,
        typer.Option(
            "--cancel",
            envvar="PROVLEDGER_ROTATE_CANCEL",
            help="Take back a rotation to this key that is not endorsed yet.",
        ),
    ] = False,
    probe: Annotated[
        bool,
        typer.Option(
            "--probe/--no-probe",
            envvar="PROVLEDGER_ROTATE_PROBE",
            help="Append probes to tenants/system/ledgers/probes meanwhile, to measure what "
            "callers see.",
        ),
    ] = True,
    recovery: Annotated[
        str,
        typer.Option(
            "--recovery-key",
            envvar="PROVLEDGER_RECOVERY_KEY",
            metavar="FILE|URI",
            help="The recovery key: its file, or its key URI, as `keys init` takes it. Needed for "
            "the first key of a purpose that the key ledger began without. Default: the one in the "
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
    """Make another key the active one of its purpose; the old one stays valid while it drains.

    The new key is made where the old one is: a file, an AWS or Google key, an object of the token.
    The change is endorsed by the old key and the new one and written to the key ledger; then every
    signing service moves on. No write fails meanwhile. Killed at any point, running it again with
    the same --kid goes on. Give verifiers a new JWK Set afterwards: keys jwks --out jwks.json
    A key that is the active one already stays it, and nothing is changed.

    Example: keys rotate --kid witness-2
    """
    from provledger_cli.ceremonies.recovery import recovery_key
    from provledger_cli.connect import run_async, target

    output.use_json(as_json)
    names.check_kid(kid)
    if not uri and (jwk is not None or create):
        raise CommandError("--jwk and --create are about the key at --uri", hint="give --uri")
    where = target(
        data_dir, endpoint, first="keys", tls_cert=tls_cert, tls_key=tls_key, tls_ca=tls_ca
    )
    if cancel:
        run_async(_cancel(where, kid, timeout))
        if as_json:
            output.document({"kid": kid, "cancelled": True})
        else:
            output.show(output.literal(f"the rotation to {kid} is taken back; {kid} stays pending"))
        return
    public = jwk.read_bytes() if jwk is not None else b""
    by = recovery_key(where, recovery)
    done = run_async(_rotate(where, kid, purpose, uri, public, create, timeout, probe, by))
    if as_json:
        output.document(done)
        return
    _show(done, purpose)


def _show(done: dict[str, Any], purpose: Purpose) -> None:
    key, previous, measured = done["key"], done["previous"], done["measured"]
    came_from = output.literal(f", after {previous['kid']} (draining)") if previous else ""
    kid = output.literal(key["kid"])
    if done["was_active"]:
        output.show(
            f"[bold]{kid}[/] was the active {purpose.value} key already, epoch {key['epoch']}: "
            "nothing was changed"
        )
        return
    output.show(
        f"[bold]{kid}[/] is the active {purpose.value} key, epoch {key['epoch']}"
        f"{came_from}; {output.seconds(done['seconds'])}"
    )
    rows = [
        ("key ledger", done["receipt"] or "(none kept)"),
        ("reported by", ", ".join(done["signers"])),
    ]
    if measured:
        rows += [
            ("longest gap", f"{measured['longest_gap_ms']:.1f} ms between completed appends"),
            (
                "failed calls",
                f"{measured['failed']} of {measured['appended'] + measured['failed']}",
            ),
        ]
    if done["first_receipt"]:
        rows.append((f"first under {key['kid']}", done["first_receipt"]))
    output.show(output.card("", rows))
    output.say("[bold]next:[/] give verifiers the new keys: keys jwks --out jwks.json")


async def _cancel(where: Target, kid: str, timeout_s: float) -> None:
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.connect import Remote

    async with Remote(where, timeout_s=timeout_s) as remote:
        request = keys_pb2.CancelRotationRequest(kid=kid)
        await remote.call(remote.keys.CancelRotation, request)


async def _rotate(
    where: Target,
    kid: str,
    purpose: Purpose,
    uri: str,
    jwk: bytes,
    create: bool,
    timeout_s: float,
    measure: bool,
    recovery: RecoveryKey | None,
) -> dict[str, Any]:
    from provledger_cli.ceremonies import ceremony
    from provledger_cli.ceremonies.new_key import new_key
    from provledger_cli.ceremonies.recovery import opened
    from provledger_cli.ceremonies.registry import known_key, state_name
    from provledger_cli.connect import Remote

    async with (
        Remote(where, timeout_s=timeout_s) as remote,
        opened(remote, await _needed(remote, purpose, recovery)) as endorser,
    ):
        uri, jwk = await new_key(remote, kid, purpose.value, uri=uri, jwk=jwk, create=create)
        known = await known_key(remote, kid)
        was_active = known is not None and state_name(known) == "active"
        probe, stop = ceremony.Probe(), asyncio.Event()
        probing: asyncio.Task[None] | None = None
        # Where nothing moves there is nothing to measure, and receipts are for ever.
        if measure and not was_active and remote.has("ledger"):
            probing = asyncio.create_task(probe.run(remote, stop))
        try:
            done = await _ceremony(remote, kid, purpose, uri, jwk, timeout_s, endorser)
            if probing is not None and purpose is Purpose.WITNESS:
                await _wait_for(lambda: kid in probe.first_under or probing.done(), 5.0)
        finally:
            stop.set()
            if probing is not None:
                await asyncio.gather(probing, return_exceptions=True)
        done["was_active"] = was_active
        done["first_receipt"] = probe.first_under.get(kid)
        done["measured"] = None
        if probe.appended or probe.failed:
            done["measured"] = {
                "longest_gap_ms": round(probe.longest_gap_s * 1000, 3),
                "appended": probe.appended,
                "failed": probe.failed,
                "failures": probe.failures[:10],
            }
        return done


async def _ceremony(
    remote: Remote,
    kid: str,
    purpose: Purpose,
    uri: str,
    jwk: bytes,
    timeout_s: float,
    recovery: OpenRecovery | None,
) -> dict[str, Any]:
    from provledger.api.keys.v1 import keys_pb2
    from provledger_cli.ceremonies import ceremony
    from provledger_cli.ceremonies.registry import PURPOSES, key_document

    started_s = time.monotonic()
    with output.progress(kid, counted=False) as bar:
        task = bar.add_task("announced", total=3, done=0)

        def say(text: str) -> None:
            bar.update(task, description=text)

        request = keys_pb2.RotateKeyRequest(
            kid=kid, purpose=PURPOSES[purpose.value], uri=uri, jwk=jwk
        )
        answer = await remote.call(remote.keys.RotateKey, request)
        bar.update(task, completed=1)
        if not answer.HasField("previous"):
            await ceremony.introduce(remote, kid, recovery)
        key = await ceremony.wait_until_active(remote, kid, timeout_s, say)
        receipt = await ceremony.wait_until_told(remote, kid, timeout_s)
        bar.update(task, completed=2, description="active; signing services move on")
        signers = await ceremony.wait_until_used(
            remote, purpose.value, kid, min(timeout_s, 10.0), output.say
        )
        bar.update(task, completed=3)
    previous = answer.previous if answer.HasField("previous") else None
    return {
        "key": key_document(key),
        "previous": key_document(previous) if previous is not None else None,
        "receipt": receipt,
        "signers": signers,
        "seconds": round(time.monotonic() - started_s, 3),
    }


async def _needed(
    remote: Remote, purpose: Purpose, recovery: RecoveryKey | None
) -> RecoveryKey | None:
    """The recovery key where no key of the purpose is active, so that it has to let one in."""
    from provledger_cli.ceremonies.registry import list_keys, state_name

    if recovery is None:
        return None
    keys = await list_keys(remote, purpose.value)
    return recovery if all(state_name(each) != "active" for each in keys) else None


async def _wait_for(condition: Callable[[], bool], timeout_s: float) -> None:
    deadline_s = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline_s:  # noqa: ASYNC110 - for another task
        await asyncio.sleep(0.01)
