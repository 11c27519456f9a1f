"""Whether a load came out as it should: thresholds, and a run from before. Pure.

Three answers, as everywhere: it holds, it does not, could not tell. Latency from when a request
was due may be the generator's own doing in part; from when it was sent it is not. Between the two,
whose fault it was is not known.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from provledger.errors import InputError

Word = Literal["holds", "does not hold", "could not tell"]


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
    min_rate: float | None = None,
    max_failed: float | None = None,
    baseline: Sequence[Mapping[str, Any]] | None = None,
    tolerance: float = 0.2,
) -> list[Finding]:
    """Findings about steps, as `Step.document` gives them.

    max_p95_ms: for every step. min_rate: for the best step, in answers a second. max_failed: part
    of the requests of all steps that may fail; refusals do not count. baseline: steps of an
    earlier run; those of the same rate are compared, and the best with the best.
    """
    findings: list[Finding] = []
    if max_p95_ms is not None:
        findings += [_latency(step, max_p95_ms, "max-p95-ms") for step in steps]
    if min_rate is not None:
        findings.append(_rate(steps, min_rate, "min-rate"))
    if max_failed is not None:
        findings.append(_failed(steps, max_failed))
    if baseline is not None:
        findings += _compare(steps, baseline, tolerance)
    return findings


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
            float(step["rate_per_s"]), float(step["answered_per_s"])
            float(step["latency_ms"]["p95"])
    except (KeyError, TypeError, ValueError):
        raise InputError("--baseline is not a report of `provledger load --json`") from None
    return list(steps)


def _latency(step: Mapping[str, Any], bound_ms: float, check: str) -> Finding:
    name = f"{check} at {step['rate_per_s']:g}/s"
    p95_ms = step["latency_ms"]["p95"]
    detail = f"p95 {p95_ms:.3g} ms, at most {bound_ms:.3g} ms"
    if not step["answered"]:
        return Finding(name, "could not tell", "nothing was answered")
    if p95_ms <= bound_ms:
        return Finding(name, "holds", detail)
    if step["answer_ms"]["p95"] <= bound_ms:
        return Finding(name, "could not tell", f"{detail}; but the generator was late itself")
    return Finding(name, "does not hold", detail)


def _rate(steps: Sequence[Mapping[str, Any]], bound: float, check: str) -> Finding:
    best = max(steps, key=lambda step: float(step["answered_per_s"]))
    detail = f"best {best['answered_per_s']:.1f}/s, at least {bound:.1f}/s"
    if best["answered_per_s"] >= bound:
        return Finding(check, "holds", detail)
    highest = steps[-1]
    if highest["rate_per_s"] < bound:
        return Finding(check, "could not tell", f"{detail}; but no more was sent")
    if highest["generator_late"]:
        return Finding(check, "could not tell", f"{detail}; but the generator was late itself")
    return Finding(check, "does not hold", detail)


def _failed(steps: Sequence[Mapping[str, Any]], bound: float) -> Finding:
    sent = sum(step["sent"] for step in steps)
    failed = sum(sum(step["failed"].values()) for step in steps)
    if not sent:
        return Finding("max-failed", "could not tell", "nothing was sent")
    share = failed / sent
    word: Word = "holds" if share <= bound else "does not hold"
    return Finding("max-failed", word, f"{failed} of {sent} failed, at most {bound:.2%}")


def _compare(
    steps: Sequence[Mapping[str, Any]], baseline: Sequence[Mapping[str, Any]], tolerance: float
) -> list[Finding]:
    before = {step["rate_per_s"]: step for step in baseline}
    same = [step for step in steps if step["rate_per_s"] in before]
    if not same:
        return [Finding("baseline", "could not tell", "it has no step of the same rate")]
    findings = [
        _latency(
            step,
            before[step["rate_per_s"]]["latency_ms"]["p95"] * (1 + tolerance),
            "baseline p95",
        )
        for step in same
    ]
    # Only what was sent in both can be compared.
    best = max(float(before[step["rate_per_s"]]["answered_per_s"]) for step in same)
    findings.append(_rate(same, best * (1 - tolerance), "baseline rate"))
    return findings
