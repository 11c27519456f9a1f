"""The instruments of the services, for docs/metrics.md: read from the code, not by running it.

An instrument is declared once, at module level, by `telemetry.counter`, `gauge`, `level` or
`histogram`. Its labels are the attributes that it is given where it is used: in the same module, as
a dict whose keys stand there.
"""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from scripts.doc_blocks import REPO

from provledger import telemetry

SHARED: Final = {
    "provledger/batching.py": "witness, ledger, anchor",
    "provledger/kms/remote.py": "witness, anchor",
    "provledger/rpc/tls.py": "all",
}
"""By module of the library: the services whose metrics these are."""

_UNITS: Final = {"s": "seconds", "By": "bytes"}
_SUFFIX: Final = {"counter": "_total"}
_KINDS: Final = {"level": "gauge"}
_USES: Final = {"add": 1, "set": 1, "record": 1, "watch": 2}
"""How an instrument is used: method, and the place of the attributes among what that is given."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One instrument. labels: as in Prometheus, sorted. unit: of UCUM, as it is declared."""

    name: str
    kind: str
    unit: str
    doc: str
    labels: tuple[str, ...]
    services: str

    @property
    def prometheus_name(self) -> str:
        """Its name in Prometheus; of a histogram, without `_bucket`, `_count` or `_sum`."""
        name, unit = _underscored(self.name), _UNITS.get(self.unit, "")
        if unit and not name.endswith(f"_{unit}"):
            name = f"{name}_{unit}"
        return name + _SUFFIX.get(self.kind, "")

    @property
    def unit_in_words(self) -> str:
        """Its unit as a page has it: of what is counted, the noun."""
        return _UNITS.get(self.unit, self.unit.strip("{}1"))


@functools.cache
def metrics() -> tuple[Metric, ...]:
    """Every instrument there is, those of a service together."""
    sources = [REPO / "libs/common/provledger", *sorted((REPO / "services").glob("*_svc"))]
    paths = [path for source in sources for path in sorted(source.rglob("*.py"))]
    found = [metric for path in paths for metric in _declared(path)]
    return tuple(sorted(found, key=lambda metric: (metric.services, metric.name)))


def _declared(path: Path) -> Iterator[Metric]:
    text = path.read_text("utf-8")
    if "= telemetry." not in text:
        return
    tree = ast.parse(text)
    for statement in tree.body:
        if not isinstance(statement, ast.Assign | ast.AnnAssign):
            continue
        call = statement.value
        if isinstance(call, ast.Call) and ast.unparse(call.func).startswith("telemetry."):
            kind = ast.unparse(call.func).removeprefix("telemetry.")
            target = (
                statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            )
            said = {word.arg: word.value for word in call.keywords}
            unit = said.get("unit")
            default = inspect.signature(getattr(telemetry, kind)).parameters["unit"].default
            yield Metric(
                name=ast.literal_eval(call.args[0]),
                kind=_KINDS.get(kind, kind),
                unit=default if unit is None else ast.literal_eval(unit),
                doc=ast.literal_eval(said["doc"]).rstrip("."),
                labels=tuple(sorted(map(_underscored, _attributes(tree, ast.unparse(target))))),
                services=_services(path),
            )


def _attributes(tree: ast.Module, instrument: str) -> set[str]:
    """What an instrument is told besides numbers, of all its uses."""
    found: set[str] = set()
    for call in ast.walk(tree):
        if (
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Attribute)
            and call.func.attr in _USES
            and ast.unparse(call.func.value) == instrument
        ):
            for given in call.args[_USES[call.func.attr] :]:
                found |= _keys(tree, given)
    return found


def _keys(tree: ast.Module, given: ast.expr) -> set[str]:
    """The keys of a dict that stands there, or is made in this module under that name."""
    if isinstance(given, ast.Dict):
        return {ast.literal_eval(key) for key in given.keys if key is not None}
    if isinstance(given, ast.Call):
        name = ast.unparse(given.func).removeprefix("self.")
        made = [
            node.value
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef) and function.name == name
            for node in ast.walk(function)
            if isinstance(node, ast.Return)
        ]
    else:
        made = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == ast.unparse(given)
        ]
    dicts = [value for value in made if isinstance(value, ast.Dict)]
    if not dicts or len(dicts) < len(made):
        raise ValueError(f"which attributes? {ast.unparse(given)}")
    return {key for value in dicts for key in _keys(tree, value)}


def _services(path: Path) -> str:
    package = path.relative_to(REPO).parts[1]
    if package.endswith("_svc"):
        return package.removesuffix("_svc")
    return SHARED[str(path.relative_to(REPO / "libs/common"))]


def _underscored(name: str) -> str:
    return name.replace(".", "_")
