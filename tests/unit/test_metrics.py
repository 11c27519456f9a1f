"""The page of metrics, and the alerts, say the names that the services give to Prometheus."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from scripts.doc_blocks import REPO
from scripts.metrics import SHARED, Metric, metrics

from provledger import _instruments, telemetry

SOURCES = [REPO / "libs/common", *sorted((REPO / "services").glob("*_svc"))]
TEXTS = {path: path.read_text("utf-8") for source in SOURCES for path in source.rglob("*.py")}
DECLARED_RE = re.compile(r"= telemetry\.(?:counter|gauge|level|histogram)\(")
USED_RE = re.compile(r"\b(?:provledger|anchor|gateway|notary|batch)_\w+")


@pytest.fixture
def scraped() -> Iterator[None]:
    """As the gateway has it."""
    telemetry.configure("gateway", env={}, scraped=True)
    yield
    telemetry.shutdown()
    for each in instruments().values():
        if isinstance(each, _instruments.Level):
            each._seen.clear()  # it would tell the others of our labels


def instruments() -> dict[str, _instruments._Instrument]:
    """Those of the services, by name, in a process that has all of them."""
    for path, text in TEXTS.items():
        if DECLARED_RE.search(text):
            root = next(
                root for root in ("libs/common", "services") if (REPO / root) in path.parents
            )
            module = path.relative_to(REPO / root).with_suffix("")
            importlib.import_module(".".join(module.parts))
    return {each.name: each for each in _instruments._declared._all}


def test_every_declaration_is_found_as_it_is() -> None:
    found = metrics()
    declared = sum(len(DECLARED_RE.findall(text)) for text in TEXTS.values())
    assert len({metric.name for metric in found}) == len(found) == declared
    real = instruments()
    for metric in found:
        each = real[metric.name]
        assert (each.unit, each.doc.rstrip(".")) == (metric.unit, metric.doc)
        assert each._kind.removeprefix("observable_") == metric.kind
        assert metric.doc
    assert {metric.services for metric in found} >= set(SHARED.values())


def test_names_and_labels_are_those_that_prometheus_gets(scraped: None) -> None:
    real, owner = instruments(), _Owner()
    for metric in metrics():
        _use(real[metric.name], owner, dict.fromkeys(_attributes(metric), "x"))
    answer = telemetry.scrape()
    assert answer is not None
    given = {
        sample.name: set(sample.labels)
        for family in text_string_to_metric_families(answer[0].decode())
        for sample in family.samples
    }
    for metric in metrics():
        if metric.kind == "histogram":
            assert given.pop(f"{metric.prometheus_name}_bucket") == {*metric.labels, "le"}
            assert given.pop(f"{metric.prometheus_name}_count") == {*metric.labels}
            assert given.pop(f"{metric.prometheus_name}_sum") == {*metric.labels}
        else:
            assert given.pop(metric.prometheus_name) == {*metric.labels}
    ours = {name for name in given if USED_RE.match(name)}
    assert not ours, "metrics that the page does not have"


def test_alerts_ask_for_metrics_that_there_are() -> None:
    text = (REPO / "deploy/helm/provledger/alerts.yaml").read_text("utf-8")
    exprs = re.findall(r"expr: (?:>-\n)?(.*?)\n +(?:for|labels):", text, re.DOTALL)
    assert len(exprs) == text.count("- alert: ")
    labels = {label for metric in metrics() for label in metric.labels}
    used = {name for expr in exprs for name in USED_RE.findall(expr)} - labels
    names = {metric.prometheus_name for metric in metrics()}
    assert used
    assert {name.removesuffix("_bucket") for name in used} <= names


def _attributes(metric: Metric) -> list[str]:
    """Labels as they are before Prometheus: the one with dots is that of the key services."""
    return [label.replace("provledger_kms_", "provledger.kms.") for label in metric.labels]


class _Owner:
    """Of what is read when it is collected."""


def _use(instrument: _instruments._Instrument, owner: _Owner, attributes: dict[str, str]) -> None:
    if isinstance(instrument, _instruments.Counter):
        instrument.add(1, attributes)
    elif isinstance(instrument, _instruments.Gauge):
        instrument.set(1, attributes)
    elif isinstance(instrument, _instruments.Level):
        instrument.watch(owner, lambda _: 1, attributes)
    elif isinstance(instrument, _instruments.Histogram):
        instrument.record(1, attributes)
