"""`provledger monitor`: follows any C2SP log by its URL and key, and alarms."""

from __future__ import annotations

import hashlib
import math
import random
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from provledger_cli import output
from provledger_cli.embedded.datadir import default_path
from provledger_cli.failures import COULD_NOT_TELL, DOES_NOT_HOLD, HOLDS, CommandError
from provledger_cli.options import JSONOption, finite

if TYPE_CHECKING:
    from provledger.policy import Policy
    from provledger_cli.tlog.fetching import Fetcher
    from provledger_cli.watching.alarms import Alarm, Look
    from provledger_cli.watching.monitor import Monitor
    from provledger_cli.watching.webhook import Webhook


def monitor(
    url: Annotated[
        str,
        typer.Argument(
            envvar="PROVLEDGER_MONITOR_URL",
            help="The log's URL, or a directory or s3:// prefix with its files "
            "(c2sp.org/tlog-tiles).",
            show_default=False,
        ),
    ],
    vkey: Annotated[
        list[str],
        typer.Option(
            "--vkey",
            envvar="PROVLEDGER_MONITOR_VKEY",
            metavar="KEY",
            help="The log's verifier key (c2sp.org/signed-note). Repeatable: one of them must have "
            "signed.",
            show_default=False,
        ),
    ],
    once: Annotated[
        bool,
        typer.Option("--once", envvar="PROVLEDGER_MONITOR_ONCE", help="Look once, then end."),
    ] = False,
    interval: Annotated[
        float,
        typer.Option(
            "--interval",
            envvar="PROVLEDGER_MONITOR_INTERVAL",
            min=0.05,
            max=86_400.0,
            metavar="SECONDS",
            callback=finite,
            help="Time between two looks, a tenth more or less.",
        ),
    ] = 60.0,
    state: Annotated[
        Path | None,
        typer.Option(
            "--state",
            envvar="PROVLEDGER_MONITOR_STATE",
            help="File that remembers the last head. Evidence of a split view is saved beside it. "
            "Default: one for each log, in your own data directory.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--checkpoint",
            envvar="PROVLEDGER_MONITOR_CHECKPOINT",
            metavar="FILE|URL",
            help="A checkpoint from elsewhere (a sink, a cosigner, a colleague), which must belong "
            "to the same history and which the log must have reached. Repeatable.",
            show_default=False,
        ),
    ] = None,
    expect: Annotated[
        list[Path] | None,
        typer.Option(
            "--expect",
            envvar="PROVLEDGER_MONITOR_EXPECT",
            help="An export, or a receipt: its entries must be in the log, and what the log signed "
            "for them of its history. Repeatable. Payloads are not looked at: `provledger verify` "
            "does.",
            show_default=False,
        ),
    ] = None,
    max_age: Annotated[
        int | None,
        typer.Option(
            "--max-age",
            envvar="PROVLEDGER_MONITOR_MAX_AGE",
            min=1,
            metavar="SECONDS",
            help="Alarm when the head is older: by the cosigners of --cosigner or --policy, or "
            "without any, when the log has not grown for so long.",
            show_default=False,
        ),
    ] = None,
    cosigner: Annotated[
        list[str] | None,
        typer.Option(
            "--cosigner",
            envvar="PROVLEDGER_MONITOR_COSIGNER",
            metavar="KEY",
            help="Verifier key of a cosigner whose time is believed. Repeatable: one of them must "
            "have cosigned the head. Not for Provledger's own logs, whose published heads carry "
            "no cosignatures.",
            show_default=False,
        ),
    ] = None,
    policy: Annotated[
        Path | None,
        typer.Option(
            "--policy",
            envvar="PROVLEDGER_MONITOR_POLICY",
            help="Policy (c2sp.org/tlog-policy) whose quorum must have cosigned the head, within "
            "--max-age if that is given. Instead of --cosigner, and as it, not for Provledger's "
            "own logs. Sinks count for nothing: cosigners alone must be able to meet it.",
            show_default=False,
        ),
    ] = None,
    tree_hash: Annotated[
        str,
        typer.Option(
            "--tree-hash",
            envvar="PROVLEDGER_MONITOR_TREE_HASH",
            help="sha256, or blake3 for a log of suite blake3-all.",
        ),
    ] = "sha256",
    webhook: Annotated[
        str,
        typer.Option(
            "--webhook",
            envvar="PROVLEDGER_MONITOR_WEBHOOK",
            metavar="URL",
            help="POST each alarm there, as JSON, when it begins; tried a few times, and once more "
            "before each later look until it was taken, or with --once at the end.",
            show_default=False,
        ),
    ] = "",
    as_json: JSONOption = False,
) -> None:
    """Follow a log from outside: one history, fresh, with our entries in it.

    Needs no account and no service of ours: the public files and the log's key. Every tile is
    checked against the signed head before anything is computed from it. Two heads that are not of
    one history are a split view: the evidence is saved, can be checked by anybody with `provledger
    log split-view`, and the monitor ends.

    It goes on whatever else happens: what cannot be had, read or saved is something that it could
    not tell. An alarm is told once, as soon as it is found, and stands until the check that found
    it holds: split_view, rolled_back, behind, checkpoint_signature, tiles_damaged, stale,
    cosigner_quorum, inclusion.

    Over https, a certificate of a private CA is taken if SSL_CERT_FILE names a PEM file with that
    CA.

    Exit code 0: all holds. 1: an alarm stands. 2: it could not be told.

    Example: provledger monitor https://log.example.org/main --vkey KEY --max-age 3600
    """
    from provledger_cli.watching.webhook import Webhook

    output.use_json(as_json)
    if tree_hash not in ("sha256", "blake3"):
        raise CommandError("--tree-hash is sha256 or blake3")
    if cosigner and policy is not None:
        raise CommandError(
            "--cosigner and --policy are not given together",
            hint="put the cosigner into the policy",
        )
    fetcher = _open_webhook(webhook)
    watch, origin = _open(
        url, vkey, state, checkpoint, expect, max_age, cosigner, policy, tree_hash, once=once
    )
    hook = None if fetcher is None else Webhook(fetcher.post, origin)
    if once:
        look = watch.look(None if hook is None else hook.tell)
        if hook is not None:
            hook.tell_again()  # for the last time
    else:
        look = _follow(watch, origin, interval, hook)
    if as_json:
        output.document(_document(origin, look))
    elif once:
        _show(origin, look)
    code = _exit_code(look)
    if code:
        raise typer.Exit(code)


def _open(
    url: str,
    vkeys: list[str],
    state: Path | None,
    checkpoints: list[str] | None,
    expect: list[Path] | None,
    max_age_s: int | None,
    cosigners: list[str] | None,
    policy: Path | None,
    tree_hash: str,
    *,
    once: bool,
) -> tuple[Monitor, str]:
    from provledger import note
    from provledger.hashing import blake3, sha256
    from provledger.monitoring import LogView
    from provledger_cli.tlog.logfiles import open_files
    from provledger_cli.watching.monitor import STEP_S, Monitor, Wanted
    from provledger_cli.watching.remembered import Memory

    view = LogView(vkeys, blake3 if tree_hash == "blake3" else sha256)
    if state is None:
        name = hashlib.sha256(view.origin.encode()).hexdigest()[:32]
        state = default_path() / "monitors" / name / "state.json"
    wanted = Wanted(
        others=checkpoints or (),
        max_age_s=max_age_s,
        cosigners=[note.parse_vkey(key) for key in cosigners or ()],
        policy=_read_policy(policy),
        expect=expect or (),
    )
    # A look that others follow must not last, and leaves what is left to them.
    expect_s = math.inf if once else STEP_S
    watch = Monitor(view, open_files(url), Memory(state, view), wanted, expect_s=expect_s)
    return watch, view.origin


def _read_policy(path: Path | None) -> Policy | None:
    from provledger.policy import MAX_POLICY_BYTES, parse_policy

    if path is None:
        return None
    with path.open("rb") as file:
        policy = parse_policy(file.read(MAX_POLICY_BYTES + 1))
    if policy.quorum is None:
        raise CommandError(
            f"{path} asks for nobody: its quorum is none",
            hint="leave --policy out; --max-age alone asks that the log grows",
        )
    if not policy.met_by(policy.cosigners.keys()):
        raise CommandError(
            f"{path} asks for sinks, and cosigners alone cannot meet it: a head carries nothing "
            "that a sink answered",
            hint="give one that asks for cosigners only",
        )
    return policy


def _open_webhook(url: str) -> Fetcher | None:
    """Now, and not at the first alarm, which nobody would hear of."""
    from provledger_cli.tlog.fetching import Fetcher, FetchError

    if not url:
        return None
    try:
        return Fetcher(url)
    except FetchError as error:
        raise CommandError(f"--webhook cannot be used: {error}") from error


def _follow(watch: Monitor, origin: str, interval_s: float, hook: Webhook | None) -> Look:
    """Look until a signal comes, or a split view; alarms are log lines as they come and go."""
    from provledger import logs
    from provledger_cli.watching.alarms import Standing

    logs.configure("monitor")
    log = logs.get(__name__)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    standing = Standing()
    unknown: dict[str, str] = {}
    last_size = -1

    def tell(alarm: Alarm) -> None:
        if standing.begins(alarm):
            log.error(
                "monitor.alarm",
                origin=origin,
                alarm=alarm.kind,
                check=alarm.check,
                message=alarm.message,
                evidence=alarm.evidence or alarm.evidence_text,
            )
            if hook is not None:
                hook.tell(alarm)

    while True:
        if hook is not None:
            hook.tell_again()
        look = watch.look(tell)
        if look.shown and look.size != last_size:
            last_size = look.size
            log.info("monitor.head", origin=origin, size=look.size)
        for what, why in look.unknown.items():
            if what not in unknown:
                log.warning("monitor.unknown", origin=origin, what=what, why=why)
        for what in unknown.keys() - look.unknown.keys():
            log.info("monitor.cleared", origin=origin, alarm=f"unknown: {what}")
        unknown = look.unknown
        for alarm in standing.cleared_by(look):
            log.info("monitor.cleared", origin=origin, alarm=alarm.kind, check=alarm.check)
        if look.split and hook is not None:
            hook.tell_again()  # for the last time
        if look.split or stop.wait(interval_s * rng.uniform(0.9, 1.1)):
            look.alarms = standing.alarms
            return look


def _exit_code(look: Look) -> int:
    if look.alarms:
        return DOES_NOT_HOLD
    return COULD_NOT_TELL if look.unknown else HOLDS


def _document(origin: str, look: Look) -> dict[str, Any]:
    return {
        "holds": {HOLDS: True, DOES_NOT_HOLD: False}.get(_exit_code(look)),
        "origin": origin,
        "tree_size": look.size if look.shown else None,
        "first_look": look.first,
        "checks": look.held,
        "not_told": look.unknown,
        "alarms": [alarm.as_dict() for alarm in look.alarms],
    }


def _show(origin: str, look: Look) -> None:
    rows = [(what, "holds", why) for what, why in look.held.items()]
    rows += [(what, "could not tell", why) for what, why in look.unknown.items()]
    rows += [
        (alarm.kind, "alarm", " ".join(filter(None, (alarm.message, alarm.evidence))))
        for alarm in look.alarms
    ]
    size = f"tree size {look.size:,}" if look.shown else "tree size not known"
    output.show(output.table(f"{origin}, {size}", ["check", "outcome", ""], rows))
