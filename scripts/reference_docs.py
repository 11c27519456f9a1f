"""Makes the reference pages from the code: settings, RPCs, commands, reasons of errors, metrics.

    python scripts/reference_docs.py           write the generated blocks of docs/
    python scripts/reference_docs.py --check   fail if they are not what the code says now

What is generated stands between comments in the pages; the words around it are written by hand.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.doc_blocks import REPO, apply, fill, names_in
from scripts.error_reasons import REASONS, Reason
from scripts.metrics import metrics

from provledger.rpc.settings import ServerSettings
from provledger.settings import SettingRow, describe
from provledger_cli import anchor_main, keys_main, log_main
from provledger_cli.main import application
from provledger_cli.verbs import fips

DOCS = REPO / "docs"
CHART_SCHEMA = REPO / "deploy/helm/provledger/values.schema.json"
PROTO = REPO / "proto" / "provledger" / "api"
SERVICES = ("keys", "witness", "ledger", "anchor", "gateway", "notary")

CALLED_BY = {
    "AnchorService": "commands",
    "AnchorService/BatchGetInclusionProofs": "ledger",
    "AnchorService/CreateLog": "ledger",
    "AnchorService/GetCheckpoint": "gateway, commands",
    "AnchorService/GetInclusionProof": "whoever wants one",
    "AnchorService/GetLedgerHead": "ledger",
    "AnchorService/GetLedgerState": "ledger",
    "AnchorService/GetLog": "ledger, commands",
    "AnchorService/GetTile": "gateway",
    "AnchorService/ListLogs": "gateway, commands",
    "AnchorService/SignKeyEvent": "ledger",
    "AnchorService/SubmitLeaves": "ledger",
    "AnchorService/WatchCheckpoints": "whoever wants them",
    "KeysService": "commands",
    "KeysService/CommitRotation": "nobody of ours",
    "KeysService/EndorseKeyEvent": "ledger, commands",
    "KeysService/GetJwks": "client, gateway, commands",
    "KeysService/ListKeyEvents": "ledger, commands",
    "KeysService/RecordKeyEvent": "ledger",
    "KeysService/ReportSigner": "witness, anchor",
    "KeysService/WatchKeys": "witness, ledger, anchor",
    "LedgerService": "your services, client, commands",
    "WitnessService": "ledger",
}
"""Who calls an RPC, or else the RPCs of its service."""

_SERVICE_RE = re.compile(r"^service (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_RPC_RE = re.compile(
    r"((?:^ *//.*\n)+) *rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\)", re.MULTILINE
)


@dataclasses.dataclass(frozen=True, slots=True)
class RPC:
    """One RPC, as its proto says."""

    service: str
    name: str
    kind: str
    doc: str


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |"
                     for line in lines)  # fmt: skip


# --- settings ------------------------------------------------------------------------------------


def settings_of(service: str) -> list[SettingRow]:
    """The settings of a service, shared ones included."""
    module = importlib.import_module(f"{service}_svc.config")
    return describe(module.Settings, service)


def settings_blocks() -> dict[str, str]:
    """Tables of the settings: shared ones once, then those of each service."""
    shared = {item.name for item in dataclasses.fields(ServerSettings)}
    blocks = {"settings-shared": _settings_table(describe(ServerSettings, "service"), shared=True)}
    for service in SERVICES:
        # These speak HTTP: what the services over gRPC share is not theirs.
        skipped = set() if service in ("gateway", "notary") else shared
        own = [row for row in settings_of(service) if row.field not in skipped]
        blocks[f"settings-{service}"] = _settings_table(own)
    return blocks


def _settings_table(rows: list[SettingRow], *, shared: bool = False) -> str:
    lines = []
    for row in rows:
        env = row.env.replace("_SERVICE_", "_<SERVICE>_", 1) if shared else row.env
        default = "required" if row.default == "required" else f"`{row.default}`"
        lines.append(
            [
                f"`{row.field}`<br>`{env}`",
                row.type,
                default if row.default else "",
                f"{row.doc} ({row.unit})" if row.unit else row.doc,
            ]
        )
    return table(["setting, environment", "type", "default", "what"], lines)


# --- RPCs ----------------------------------------------------------------------------------------


def rpcs() -> Iterator[RPC]:
    """Every RPC in proto/."""
    for proto in sorted(PROTO.glob("*/v1/*.proto")):
        for service in _SERVICE_RE.finditer(proto.read_text("utf-8")):
            for comment, name, streams_in, _, streams_out, _ in _RPC_RE.findall(service[2]):
                words = [line.strip().removeprefix("//").strip() for line in comment.splitlines()]
                kind = {
                    (False, False): "unary",
                    (False, True): "server stream",
                    (True, False): "client stream",
                    (True, True): "both stream",
                }[bool(streams_in), bool(streams_out)]
                yield RPC(service[1], name, kind, " ".join(filter(None, words)))


def callers(rpc: RPC) -> str:
    """Who calls it, of ours and of others."""
    return CALLED_BY.get(f"{rpc.service}/{rpc.name}", CALLED_BY[rpc.service])


def rpc_block() -> str:
    """One table of all RPCs."""
    rows = [[f"`{rpc.service}/{rpc.name}`", rpc.kind, callers(rpc), rpc.doc] for rpc in rpcs()]
    return table(["RPC", "kind", "called by", "what it does"], rows)


# --- commands ------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Every verb with its full name: `provledger up`, `keys list`."""
    groups = (
        ("provledger", application()),
        ("provledger fips", fips.application()),
        ("provledger log", log_main.application()),
        ("provledger anchor", anchor_main.application()),
        ("keys", keys_main.application()),
    )
    for prefix, app in groups:
        group: Any = typer.main.get_command(app)
        for name, command in group.commands.items():
            if not hasattr(command, "commands"):
                yield f"{prefix} {name}", command


def command_block() -> str:
    """A section for each verb: what it does, its options, an example."""
    return "\n\n".join(_command_section(name, command) for name, command in commands())


def _command_section(name: str, command: Any) -> str:
    paragraphs = [
        " ".join(part.split()) for part in (command.help or "").replace("\f", "").split("\n\n")
    ]
    text = []
    for part in filter(None, paragraphs):
        if part.startswith("Example:"):
            text.append(f"```sh\n{part.removeprefix('Example:').strip()}\n```")
        else:
            text.append(part)
    rows = [_option_row(option) for option in command.params if option.name != "help"]
    options = table(["option, environment", "default", "what"], rows)
    return "\n\n".join([f"### `{name}`", *text, options])


def _option_row(option: Any) -> list[str]:
    is_argument = option.param_type_name == "argument"
    names = [str(option.name).upper()] if is_argument else [*option.opts, *option.secondary_opts]
    env = option.envvar if isinstance(option.envvar, str) else ""
    default = option.default
    if option.required:
        shown = "required"
    elif default is True:
        shown = f"`{option.opts[0]}`"
    elif default in (None, False, "", ()) or callable(default):
        shown = ""
    else:
        shown = f"`{default}`"
    label = ", ".join(f"`{name}`" for name in names) + (f"<br>`{env}`" if env else "")
    return [label, shown, " ".join((getattr(option, "help", "") or "").split())]


# --- metrics -------------------------------------------------------------------------------------


def metric_block() -> str:
    """One table of all metrics."""
    rows = [
        [
            f"`{metric.name}`<br>`{metric.prometheus_name}`",
            metric.kind,
            metric.unit_in_words,
            ", ".join(f"`{label}`" for label in metric.labels),
            metric.services,
            metric.doc,
        ]
        for metric in metrics()
    ]
    return table(["metric, in Prometheus", "kind", "unit", "labels", "of", "what"], rows)


# --- reasons -------------------------------------------------------------------------------------


def reason_block(group: str) -> str:
    """The reasons of one group."""
    rows = [
        [f"`{name}`", ", ".join(f"`{code}`" for code in reason.codes), reason.means, reason.do]
        for name, reason in sorted(REASONS.items())
        if reason.group == group
    ]
    return table(["reason", "code", "it means", "what to do"], rows)


def blocks() -> dict[str, str]:
    """All generated blocks by name."""
    groups = sorted({reason.group for reason in REASONS.values()})
    return {
        **settings_blocks(),
        "rpcs": rpc_block(),
        "commands": command_block(),
        "metrics": metric_block(),
        **{f"reasons-{group}": reason_block(group) for group in groups},
    }


def outputs() -> dict[Path, bytes]:
    """Every page with what it should hold; raises SystemExit for a block nobody makes or shows."""
    made = blocks()
    pages: dict[Path, bytes] = {}
    used: set[str] = set()
    for path in [
        DOCS / name for name in ("configuration.md", "rpcs.md", "cli.md", "metrics.md")
    ] + [DOCS / "formats" / "errors.md"]:
        text = path.read_text("utf-8")
        used.update(names_in(text))
        pages[path] = fill(text, made).encode()
    if used ^ made.keys():
        sys.exit(f"blocks in the pages and in the code differ: {sorted(used ^ made.keys())}")
    pages[CHART_SCHEMA] = chart_schema(CHART_SCHEMA.read_bytes())
    return pages


def chart_schema(schema: bytes) -> bytes:
    """The schema of the chart's values, in which settings have the names that there are."""
    document = json.loads(schema)
    for service in SERVICES:
        names = sorted(row.field for row in settings_of(service))
        document["properties"][service]["properties"]["settings"] = {
            "allOf": [{"$ref": "#/definitions/settings"}, {"propertyNames": {"enum": names}}]
        }
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"


def main() -> None:
    """Write, or check."""
    apply(outputs(), check="--check" in sys.argv[1:])


__all__ = ["Reason", "blocks", "commands", "outputs", "rpcs", "settings_of"]

if __name__ == "__main__":
    main()
