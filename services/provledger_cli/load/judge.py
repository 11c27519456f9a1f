"""Whether a load came out as it should: thresholds, and a run from before. Pure.

Three answers, as everywhere: it holds, it does not, could not tell. The latency of a request is
what the generator sent it late, and then what the service took (`worker`): if the second alone is
within a bound that both together pass, the generator made the difference, and what would have been
without it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from provledger.errors import InputError

Word = Literal["holds", "does not hold", "could not tell"]

FEW_REFUSED: Final = 0.001
"""So small a part of the requests may be refused whatever was refused in a baseline."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One check, and what came of it."""

    check: str
    word: Word
    detail: str

    def document(self) -> dict[str, str]:
        """For the JSON report."""
        return {"check": self.check, "result": self.word, "detail": self.detail}


def judge(
    steps: Sequence[Mapping[str, Any]],
    *,
    max_p95_ms: float | None = None,
    max_p99_ms: float | None = None,
    min_rate: float | None = None,
    max_failed: float | None = None,
    max_refused: float | None = None,
    max_gap_ms: float | None = None,
    max_memory_mib: float | None = None,
    memory: Sequence[Mapping[str, Any]] = (),
    baseline: Sequence[Mapping[str, Any]] | None = None,
    unlike: Sequence[str] = (),
    tolerance: float = 0.2,
) -> list[Finding]:
    """Findings about steps, as `Step.document` gives them.

    max_p95_ms, max_p99_ms: for every step. min_rate: for the best step, in answers a second while
    it lasted. max_failed: part of the drafts of all steps that may fail; refusals do not count.
    max_refused: part of those of every step that may be refused. max_gap_ms: longest time in which
    a client process had no answer, in every step. max_memory_mib: for every service of `memory`, at
    its highest. baseline: steps of an earlier run; those of the same rate are compared, and the
    best with the best. unlike: in what that was another load, so that nothing can be compared.
    """
    findings: list[Finding] = []
    if max_p95_ms is not None:
        findings += [_latency(step, max_p95_ms, "max-p95-ms", "p95") for step in steps]
    if max_p99_ms is not None:
        findings += [_latency(step, max_p99_ms, "max-p99-ms", "p99") for step in steps]
    if min_rate is not None:
        findings.append(_rate(steps, min_rate, "min-rate"))
    if max_failed is not None:
        findings.append(_failed(steps, max_failed))
    if max_refused is not None:
        findings += [_refused(step, max_refused, "max-refused") for step in steps]
    if max_gap_ms is not None:
        findings += [_gap(step, max_gap_ms) for step in steps]
    if max_memory_mib is not None:
        findings += _memory(memory, max_memory_mib)
    if baseline is not None and unlike:
        why = f"it was made with other {', '.join(unlike)}"
        findings.append(Finding("baseline", "could not tell", why))
    elif baseline is not None:
        findings += _compare(steps, baseline, tolerance)
    return findings


def in_the_middle(
    events: Sequence[Mapping[str, Any]], missed: Sequence[Mapping[str, Any]], load_s: float
) -> list[Finding]:
    """What did not happen within a load says nothing of it: events that ended after the load, and
    those whose time had not come. load_s: from its start until nothing was due any more."""
    ended = [(event, event["at_s"] + event["took_s"]) for event in events]
    late = [(event, f"it ended {at_s:.1f} s") for event, at_s in ended if at_s > load_s]
    late += [(event, f"it was to come {event['at_s']:.1f} s") for event in missed]
    return [
        Finding(
            f"{event['event']} in the middle",
            "could not tell",
            f"{when} after the start, the load {load_s:.1f} s",
        )
        for event, when in late
    ]


def verdict(findings: Sequence[Finding], steps: Sequence[Mapping[str, Any]]) -> Word:
    """All findings together; a run in which nothing was answered tells nothing."""
    words = {finding.word for finding in findings}
    if "does not hold" in words:
        return "does not hold"
    if "could not tell" in words or not any(step["answered"] for step in steps):
        return "could not tell"
    return "holds"


def steps_of(document: Any) -> list[Mapping[str, Any]]:
    """The steps of a report that was kept; raises InputError for anything else."""
    try:
        steps = document["steps"]
        for step in steps:
            float(step["rate_per_s"]), float(step["seconds"]), _throughput_per_s(step)
            float(step["latency_ms"]["p95"]), float(step["latency_ms"]["p99"])
            int(_drafts(step)["sent"]), sum(_drafts(step)["refused"].values())
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError("--baseline is not a report of `provledger load --json`") from None
    return list(steps)


def _latency(step: Mapping[str, Any], bound_ms: float, check: str, which: str) -> Finding:
    name = f"{check} at {step['rate_per_s']:g}/s"
    found_ms, answer_ms = step["latency_ms"][which], step["answer_ms"][which]
    detail = f"{which} {found_ms:.3g} ms, at most {bound_ms:.3g} ms"
    if not step["answered"]:
        return Finding(name, "could not tell", "nothing was answered")
    if found_ms <= bound_ms and step["not_sent"]:
        return Finding(name, "could not tell", f"{detail}; but {_not_sent(step['not_sent'])}")
    if found_ms <= bound_ms:
        return Finding(name, "holds", detail)
    if answer_ms <= bound_ms:
        own = f"{answer_ms:.3g} ms from when sent: the generator was late itself"
        return Finding(name, "could not tell", f"{detail}; but {own}")
    return Finding(name, "does not hold", detail)


def _rate(steps: Sequence[Mapping[str, Any]], bound: float, check: str) -> Finding:
    best_per_s = max(_sustained_per_s(step) for step in steps)
    detail = f"best {best_per_s:.1f}/s, at least {bound:.1f}/s"
    if best_per_s >= bound:
        return Finding(check, "holds", detail)
    highest = steps[-1]
    too_little = _all_answered(highest) and highest["sent"] / highest["seconds"] < bound
    if highest["rate_per_s"] < bound or too_little:
        return Finding(check, "could not tell", f"{detail}; but no more was sent")
    if highest["generator_late"]:
        return Finding(check, "could not tell", f"{detail}; but the generator was late itself")
    return Finding(check, "does not hold", detail)


def _sustained_per_s(step: Mapping[str, Any]) -> float:
    """Answers a second while the step lasted; what is under way at its end counts if it was all
    answered and is no more than is under way at any time (Little's law): no queue was growing."""
    throughput_per_s = float(step["throughput_per_s"])
    sent_per_s: float = step["sent"] / step["seconds"]
    under_way = (sent_per_s - throughput_per_s) * step["seconds"]
    usual = 1 + sent_per_s * step["latency_ms"]["p50"] / 1000
    return sent_per_s if _all_answered(step) and under_way <= usual else throughput_per_s


def _all_answered(step: Mapping[str, Any]) -> bool:
    every = step["answered"] == step["sent"] and not step["not_sent"]
    return every and bool(step["kept_up"])


def _failed(steps: Sequence[Mapping[str, Any]], bound: float) -> Finding:
    drafts = [_drafts(step) for step in steps]
    failed = sum(sum(each["failed"].values()) for each in drafts)
    return _part("max-failed", "failed", failed, sum(each["sent"] for each in drafts), bound, steps)


def _refused(step: Mapping[str, Any], bound: float, check: str) -> Finding:
    name, drafts = f"{check} at {step['rate_per_s']:g}/s", _drafts(step)
    refused = sum(drafts["refused"].values())
    return _part(name, "refused", refused, drafts["sent"], bound, [step])


def _part(
    name: str,
    what: str,
    count: int,
    sent: int,
    bound: float,
    steps: Sequence[Mapping[str, Any]],
) -> Finding:
    if not sent:
        return Finding(name, "could not tell", "nothing was sent")
    detail = f"{count} of {sent} {what}, at most {bound:.2%}"
    if count > bound * sent:
        return Finding(name, "does not hold", detail)
    if not_sent := sum(step["not_sent"] for step in steps):
        return Finding(name, "could not tell", f"{detail}; but {_not_sent(not_sent)}")
    return Finding(name, "holds", detail)


def _not_sent(count: int) -> str:
    return f"{count} requests that were due were not sent"


def _drafts(step: Mapping[str, Any]) -> Mapping[str, Any]:
    """Drafts by what became of them; in reports of before, requests."""
    drafts: Mapping[str, Any] = step.get("drafts", step)
    return drafts


def _gap(step: Mapping[str, Any], bound_ms: float) -> Finding:
    name = f"max-gap-ms at {step['rate_per_s']:g}/s"
    found_ms = step["longest_gap_ms"]
    detail = f"{found_ms:.0f} ms without an answer, at most {bound_ms:g} ms"
    if found_ms <= bound_ms:
        return Finding(name, "holds", detail)
    if step["generator_late"]:
        return Finding(name, "could not tell", f"{detail}; but the generator was late itself")
    return Finding(name, "does not hold", detail)


def _memory(memory: Sequence[Mapping[str, Any]], bound_mib: float) -> list[Finding]:
    if not memory:
        why = "only the memory of services of a data directory is known"
        return [Finding("max-memory-mib", "could not tell", why)]
    findings = []
    for each in memory:
        name, found_mib = f"max-memory-mib of {each['service']}", each["highest_mib"]
        if found_mib is None:
            findings.append(Finding(name, "could not tell", "it is gone"))
            continue
        word: Word = "holds" if found_mib <= bound_mib else "does not hold"
        detail = f"{found_mib:.0f} MiB at its highest, at most {bound_mib:g} MiB"
        findings.append(Finding(name, word, detail))
    return findings


def _compare(
    steps: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], tolerance: float
) -> list[Finding]:
    before = {step["rate_per_s"]: step for step in baseline}
    same = [step for step in steps if step["rate_per_s"] in before]
    if not same:
        return [Finding("baseline", "could not tell", "it has no step of the same rate")]
    findings: list[Finding] = []
    for step in same:
        old = before[step["rate_per_s"]]
        for which in ("p95", "p99"):
            bound_ms = old["latency_ms"][which] * (1 + tolerance)
            findings.append(_latency(step, bound_ms, f"baseline {which}", which))
        drafts = _drafts(old)
        refused = sum(drafts["refused"].values()) / max(1, drafts["sent"])
        bound = max(FEW_REFUSED, refused * (1 + tolerance))
        findings.append(_refused(step, bound, "baseline refused"))
    # Only what was sent in both can be compared.
    best = max(_throughput_per_s(before[step["rate_per_s"]]) for step in same)
    findings.append(_rate(same, best * (1 - tolerance), "baseline rate"))
    return findings


def _throughput_per_s(step: Mapping[str, Any]) -> float:
    """Of a step of a baseline; reports of before had no other rate than that of all answers."""
    return float(step["throughput_per_s"] if "throughput_per_s" in step else step["answered_per_s"])
