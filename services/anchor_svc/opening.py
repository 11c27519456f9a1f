"""The sinks of a log, from its settings and its policy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from anchor_svc.quorum import MAX_SHOWN, Quorum, cosigner_uri, named_sinks
from anchor_svc.sinks import AnchorSink, Provable, Remembering, answer_of, open_sink
from anchor_svc.sinks.cosigner import CosignerSink
from anchor_svc.sinks.http import check_url
from provledger import logs
from provledger.errors import InputError
from provledger.note import VerifierKey
from provledger.policy import MAX_POLICY_BYTES, Policy, parse_policy
from provledger.settings import ConfigError

log = logs.get(__name__)

_CLOSE_S: Final = 10.0
"""A sink that does not let go by then is left to itself."""


def read_policy(path: Path) -> Policy:
    """The policy in a file; raises ConfigError."""
    try:
        with path.open("rb") as file:
            return parse_policy(file.read(MAX_POLICY_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"policy {path}: {error.strerror}") from error
    except InputError as error:
        raise ConfigError(f"policy {path}: {error}") from error


def open_sinks(uris: Iterable[str], policy: Policy | None) -> list[AnchorSink]:
    """The sinks of settings, then those of the policy; each URI once.

    Raises:
        ConfigError: one cannot be used, or the policy can never be met with them.
    """
    given = [*dict.fromkeys(uris)]
    check_few(policy, given)
    wanted = {uri: open_sink(uri) for uri in given}
    sinks = sinks_for([policy], wanted)
    check_meetable(policy, sinks.values())
    return list(sinks.values())


def sinks_for(
    policies: Iterable[Policy | None],
    base: Mapping[str, AnchorSink],
    known: Mapping[str, AnchorSink] | None = None,
) -> dict[str, AnchorSink]:
    """The sinks of `base`, then those of policies, by URI; `known` ones are not opened again.

    Cosigners that share a URL are one sink: one cosigner with keys of two kinds.

    Raises:
        ConfigError: one cannot be used.
    """
    known = base if known is None else known
    sinks = dict(base)
    by_url: dict[str, dict[VerifierKey, None]] = {}
    for policy in policies:
        if policy is None:
            continue
        for uri in policy.sinks.values():
            if uri not in sinks:
                sinks[uri] = known.get(uri) or open_sink(uri)
        for cosigner in policy.cosigners.values():
            if cosigner.url is not None:
                check_url(cosigner.url)
                by_url.setdefault(cosigner.url.rstrip("/"), {})[cosigner.key] = None
    for url, keys in by_url.items():
        uri = cosigner_uri(url)
        there = sinks.get(uri) or known.get(uri)
        if isinstance(there, CosignerSink) and keys.keys() <= {*there.keys}:
            sinks[uri] = there
        else:
            more = there.keys if isinstance(there, CosignerSink) else ()
            sinks[uri] = CosignerSink(uri, url, [*dict.fromkeys([*more, *keys])])
    return sinks


def check_few(policy: Policy | None, base: Iterable[str]) -> None:
    """Refuse more sinks than a receipt can show evidence of; raises ConfigError."""
    count = len({*base, *named_sinks(policy)})
    if count > MAX_SHOWN:
        raise ConfigError(f"sinks: {count} are too many, a receipt holds what {MAX_SHOWN} returned")


def check_meetable(policy: Policy | None, sinks: Iterable[AnchorSink]) -> None:
    """Refuse a policy that these sinks can never meet; raises ConfigError."""
    if policy is None:
        return
    known = public_keys(sinks)
    reachable = {name for name, item in policy.cosigners.items() if item.key.public_key in known}
    if not policy.met_by(reachable | policy.sinks.keys()):
        raise ConfigError("policy: it can never be met by the sinks and cosigners that have a URL")


def check_remembered(sinks: Sequence[AnchorSink], policy: Policy | None) -> None:
    """Refuse to wait for what no sink can ever say; raises ConfigError."""
    remembering = [sink for sink in sinks if isinstance(sink, Remembering)]
    quorum = Quorum(policy, [sink.uri for sink in sinks])
    if quorum.could_miss([sink.uri for sink in remembering], public_keys(remembering)):
        raise ConfigError(
            "wait_for_sinks: a checkpoint can be anchored without any of the sinks that remember "
            "(directories, buckets, cosigners): they could never confirm a start"
        )


def check_usable(sinks: Sequence[AnchorSink], policy: Policy | None, suite: str) -> None:
    """Refuse cosigners for a log whose tree they cannot check; raises ConfigError."""
    if suite == "blake3-all" and any(isinstance(sink, CosignerSink) for sink in sinks):
        raise ConfigError("sinks: cosigners check SHA-256 trees only, not those of blake3-all")


async def prove(sinks: Sequence[AnchorSink], deadline_s: float) -> None:
    """Have those sinks prove themselves that can; raises ConfigError for one that is refused.

    One that cannot be reached now, or says nothing within the deadline, is asked again before its
    first checkpoint: no sink keeps an anchor from starting, or a policy from being set.
    """
    for sink in sinks:
        if isinstance(sink, Provable):
            try:
                async with asyncio.timeout(deadline_s):
                    await answer_of(sink.check())
            except ConfigError:
                raise
            except Exception as error:  # sinks are not all ours
                log.warning("anchor.sink_not_proven", exc_info=error, sink=sink.uri)


async def close_sinks(sinks: Iterable[AnchorSink]) -> None:
    """Close sinks; what one of them raises, or how long it takes, is its own affair."""
    for sink in sinks:
        try:
            async with asyncio.timeout(_CLOSE_S):
                await answer_of(sink.close())
        except Exception as error:
            log.warning("anchor.sink_not_closed", exc_info=error, sink=sink.uri)


def public_keys(sinks: Iterable[object]) -> set[Any]:
    """Public keys of the cosigners among sinks."""
    return {key.public_key for sink in sinks if isinstance(sink, CosignerSink) for key in sink.keys}
