"""The sinks of a log, from its settings and its policy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from anchor_svc.sinks import AnchorSink, Provable, SinkError, open_sink
from anchor_svc.sinks.cosigner import CosignerSink
from anchor_svc.sinks.http import check_url
from provledger import logs
from provledger.errors import InputError
from provledger.note import VerifierKey
from provledger.policy import MAX_POLICY_BYTES, Policy, parse_policy
from provledger.settings import ConfigError

log = logs.get(__name__)


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

    Cosigners of a policy that share a URL are one sink: one cosigner with keys of two kinds.

    Raises:
        ConfigError: one cannot be used, or the policy can never be met with them.
    """
    wanted = list(dict.fromkeys([*uris, *(policy.sinks.values() if policy else ())]))
    sinks = [open_sink(uri) for uri in wanted]
    if policy is None:
        return sinks
    by_url: dict[str, list[VerifierKey]] = {}
    for cosigner in policy.cosigners.values():
        if cosigner.url is not None:
            check_url(cosigner.url)
            by_url.setdefault(cosigner.url.rstrip("/"), []).append(cosigner.key)
    sinks += [CosignerSink(_cosigner_uri(url), url, keys) for url, keys in by_url.items()]
    known = {
        key.public_key for sink in sinks if isinstance(sink, CosignerSink) for key in sink.keys
    }
    reachable = {name for name, item in policy.cosigners.items() if item.key.public_key in known}
    if not policy.met_by(reachable | policy.sinks.keys()):
        raise ConfigError("policy: it can never be met by the sinks and cosigners that have a URL")
    return sinks


def check_usable(sinks: Sequence[AnchorSink], policy: Policy | None, suite: str) -> None:
    """Refuse cosigners for a log whose tree they cannot check; raises ConfigError."""
    if suite == "blake3-all" and any(isinstance(sink, CosignerSink) for sink in sinks):
        raise ConfigError("sinks: cosigners check SHA-256 trees only, not those of blake3-all")


async def prove(sinks: Sequence[AnchorSink]) -> None:
    """Have those sinks prove themselves that can; raises ConfigError for one that is refused.

    One that cannot be reached now is asked again before its first checkpoint.
    """
    for sink in sinks:
        if isinstance(sink, Provable):
            try:
                await sink.check()
            except SinkError as error:
                log.warning("anchor.sink_not_proven", exc_info=error, sink=sink.uri)


def _cosigner_uri(url: str) -> str:
    return f"{url}?protocol=tlog-witness"
