"""The reference pages say what the code says: settings, RPCs, verbs, reasons, limits, columns."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import sqlalchemy as sa
from scripts import error_reasons, reference_docs
from scripts.doc_blocks import REPO

from anchor_svc.sinks import git, http, s3
from anchor_svc.storage import tables as anchor_tables
from keys_svc import convert, parts, registry
from keys_svc import room as keys_room
from keys_svc import storage as keys_storage
from ledger_svc import admission, answers, gate, listing, room
from ledger_svc.storage import tables as ledger_tables
from provledger import (
    disclosure,
    export,
    jcs,
    key_events,
    key_ledger_lines,
    keyset,
    names,
    note,
    patch,
    receipt,
    statement,
    tiles,
)
from provledger.api.anchor.v1 import anchor_pb2
from provledger.api.keys.v1 import keys_pb2
from provledger.api.ledger.v1 import ledger_pb2
from provledger.api.witness.v1 import witness_pb2
from provledger.client import Client
from provledger.rpc.settings import ServerSettings
from provledger_cli.transfer import lines
from witness_svc import checks, patches

DOCS = REPO / "docs"


def page(name: str) -> str:
    return (DOCS / name).read_text("utf-8")


def test_generated_blocks_are_fresh() -> None:
    stale = [
        path.name for path, data in reference_docs.outputs().items() if path.read_bytes() != data
    ]
    assert not stale, "run python scripts/reference_docs.py"


@pytest.mark.parametrize("service", reference_docs.SERVICES)
def test_every_setting_is_documented(service: str) -> None:
    text = page("configuration.md")
    for row in reference_docs.settings_of(service):
        assert f"`{row.field}`" in text
        shared = row.env.replace(f"_{service.upper()}_", "_<SERVICE>_", 1)
        assert f"`{row.env}`" in text or f"`{shared}`" in text


def test_sink_deadline_says_what_ends_before_it() -> None:
    (text,) = (
        row.doc for row in reference_docs.settings_of("anchor") if row.field == "sink_deadline_ms"
    )
    assert f"authority is given up after {http.TIMEOUT_S:.0f} s" in text
    assert f"a bucket that says nothing after {s3.TIMEOUT_S} s" in text
    assert f"one step of git after {git.TIMEOUT_S:.0f} s" in text


@pytest.mark.parametrize("module", [anchor_pb2, keys_pb2, ledger_pb2, witness_pb2])
def test_every_rpc_is_documented(module) -> None:
    text = page("rpcs.md")
    methods = [
        f"`{service.name}/{method.name}`"
        for service in module.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    ]
    assert methods
    assert not [method for method in methods if method not in text]


def test_every_verb_and_option_is_documented() -> None:
    text = page("cli.md")
    missing = []
    for name, command in reference_docs.commands():
        section = re.search(rf"### `{name}`\n(.*?)(?=\n### |\Z)", text, re.DOTALL)
        options = [option for item in command.params for option in item.opts if "--" in option]
        if section is None:
            missing.append(name)
        else:
            missing += [f"{name} {opt}" for opt in options if f"`{opt}`" not in section[1]]
    assert not missing


def test_every_member_of_the_line_format_is_documented() -> None:
    text = page("cli.md").split("## The line format")[1].split("\n## ")[0]
    assert not [member for member in lines.MEMBERS if f"`{member}`" not in text]


def test_every_reason_is_documented() -> None:
    assert not error_reasons.undocumented(), "add a line to scripts/error_reasons.txt"
    assert not error_reasons.unused(), "no longer in the code: scripts/error_reasons.txt"
    assert not error_reasons.wrong_codes(), "raised with another code than documented"
    text = page("formats/errors.md")
    assert not [reason for reason in error_reasons.REASONS if f"`{reason}`" not in text]


def test_reasons_are_within_aip_193() -> None:
    for reason, said in error_reasons.REASONS.items():
        assert re.fullmatch(r"[A-Z][A-Z0-9_]{0,62}", reason)
        assert set(said.codes) <= error_reasons.NOT_REASONS
        assert said.means
        assert said.do


def mib(value: int) -> str:
    return f"{value // 2**20} MiB"


def test_limits_are_those_of_the_code() -> None:
    text = page("formats/limits.md")
    defaults = {row.field: row.default for row in reference_docs.settings_of("ledger")}
    shown = [
        mib(ServerSettings().max_message_bytes),
        f"1 to {admission.MAX_BATCH_ITEMS:,}",
        f"{admission.DEFAULT_PAGE_SIZE} by default, at most {admission.MAX_PAGE_SIZE:,}",
        f"{mib(listing.MAX_PAGE_BYTES)} of statements and payloads, {mib(room.MAX_SHOWN_BYTES)}",
        f"{mib(answers.MAX_FULL_BYTES)} of statements and payloads; {mib(room.MAX_SHOWN_BYTES)}",
        f"{int(defaults['stream_in_flight'])} (`stream_in_flight`)",
        f"sent yet | {gate.MAX_SILENT_STREAMS}, one caller three quarters",
        f"{int(defaults['queue_items']):,} and {mib(int(defaults['queue_bytes']))}",
        f"{ServerSettings().max_concurrent_streams:,}",
        f"{ServerSettings().max_concurrent_rpcs:,}",
        f"{ServerSettings().deadline_s:.0f} s",
        f"| {mib(checks.MAX_PAYLOAD_BYTES)} |",
        f"| {jcs.MAX_DEPTH}; a state of a mutation {checks.MAX_STATE_DEPTH},",
        f"| {jcs.MAX_FIELDS:,} |",
        f"in UTF-8 | {mib(disclosure.MAX_POINTER_BYTES)} |",
        f"copy together | {patches.MAX_COPIED_TIMES} times the bytes of patch and states, and "
        f"{patches.SPARE_COPIED_BYTES // 1024} KiB",
        f"all operations together | {patch.MAX_SHIFTED_ELEMENTS:,}",
        f"{statement.MAX_STATEMENT_BYTES // 1024} KiB",
        f"{tiles.MAX_ENTRY_BYTES:,} bytes",
        f"1 to {names.MAX_REQUEST_ID_CHARS} printable",
        f"1 to {names.MAX_ID_BYTES} bytes",
        f"1 to {names.MAX_RESOURCE_ID_BYTES:,} bytes",
        f"at most {checks.MAX_ACTOR_TYPE_BYTES} bytes",
        f"at most {checks.MAX_UPSTREAM_EVENTS} |",
        f"{convert.MAX_EVENTS:,}; {parts.MAX_EVENTS:,} and {mib(parts.MAX_BYTES)}, in parts of at "
        f"most {parts.MAX_PART_EVENTS:,} that all come within {parts.READ_S:.0f} s",
        mib(receipt.MAX_RECEIPT_BYTES),
        f"{export.MAX_CONSISTENCY_PROOFS:,}",
        f"footer of an export | {export.MAX_HEAD_BYTES // 1024} KiB |",
        f"{mib(keyset.MAX_JWKS_BYTES)} and {keyset.MAX_KEYS:,} keys. Beyond "
        f"{mib(keys_room.ROTATED_BYTES)} no key is rotated in",
        f"| {mib(key_ledger_lines.MAX_KEY_LEDGER_BYTES)}, which has room for all the events of "
        f"{registry.MAX_KEYS:,} keys",
        f"| {key_events.MAX_EVENT_BYTES // 1024} KiB: the sizes",
        f"{mib(note.MAX_NOTE_BYTES)} and {note.MAX_SIGNATURES} signature lines",
    ]
    assert admission.MAX_PAYLOAD_BYTES == checks.MAX_PAYLOAD_BYTES
    # Each operation is a field of the payload, and may be led by a test: no other bound is met.
    assert 2 * jcs.MAX_FIELDS < patch.MAX_OPERATIONS
    assert not [limit for limit in shown if limit not in text]


def test_limits_name_reasons_that_there_are() -> None:
    known = error_reasons.REASONS.keys() | error_reasons.NOT_REASONS
    named = re.findall(r"`([A-Z][A-Z0-9_]+)`", page("formats/limits.md"))
    assert not [name for name in named if name not in known]


def columns(service: str) -> dict[str, list[str]]:
    """Table and column names of a service."""
    metadata: sa.MetaData = {
        "Keys": keys_storage._metadata,
        "Ledger": ledger_tables.metadata,
        "Anchor": anchor_tables._metadata,
    }[service]
    return {
        table.name: [column.name for column in table.columns] for table in metadata.sorted_tables
    }


@pytest.mark.parametrize("service", ["Keys", "Ledger", "Anchor"])
def test_every_column_has_a_sentence_in_trust(service: str) -> None:
    section = page("trust.md").split(f"### {service} service")[1].split("\n### ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    missing = []
    for table, names_of_columns in columns(service).items():
        said = " ".join(row for row in rows if row.strip().startswith(f"`{table}."))
        if f"`{table}.*`" in said:
            continue
        missing += [
            f"{table}.{name}"
            for name in names_of_columns
            if f"`{name}`" not in said and f"`{table}.{name}`" not in said
        ]
    # Keys that only say which row it is: what names the ledger or log is spoken of with the rest.
    ours = {f"{table}.{name}" for table in columns(service) for name in ("ledger_uid", "log_uid")}
    assert not set(missing) - ours - {"registry.id"}


def test_every_table_is_in_the_architecture() -> None:
    text = page("architecture.md")
    for service in ("Keys", "Ledger", "Anchor"):
        assert not [table for table in columns(service) if f"`{table}`" not in text]


def test_every_method_of_the_client_is_on_its_page() -> None:
    methods = {name for name in vars(Client) if not name.startswith("_")}
    assert methods >= {"append", "jwks", "close"}
    assert not [name for name in sorted(methods) if f"`{name}" not in page("client.md")]


def test_every_purpose_of_a_key_is_named_where_keys_are_explained() -> None:
    for name, at in (
        ("glossary.md", "| **purpose**"),
        ("architecture.md", "A key has one purpose"),
    ):
        line = page(name).partition(at)[2].partition("\n")[0]
        assert not [purpose for purpose in keyset.KeyPurpose if f"`{purpose}`" not in line], name


def test_glossary_words_link_to_pages_that_exist() -> None:
    words = re.findall(r"^\| \*\*(.+?)\*\*", page("glossary.md"), re.MULTILINE)
    assert len(words) > 40
    assert len(words) == len(set(words))


def test_every_page_is_reachable_from_the_readme() -> None:
    """Following relative links from README.md leads to every document but the records' template."""
    link = re.compile(r"\]\(([^()\s#]+)(?:#[^()\s]*)?\)")
    seen: set[Path] = set()
    waiting = [REPO / "README.md"]
    while waiting:
        here = waiting.pop()
        if here in seen or here.suffix != ".md" or not here.exists():
            continue
        seen.add(here)
        targets = link.findall(here.read_text("utf-8"))
        waiting += [(here.parent / target).resolve() for target in targets if ":" not in target]
    wanted = set(DOCS.rglob("*.md")) - set((DOCS / "adr").glob("*.md"))
    assert not sorted(str(path.relative_to(REPO)) for path in wanted - seen)


def test_who_calls_an_rpc_is_who_has_it_in_his_code() -> None:
    """Of services, by name; what the library calls on their behalf is left out."""
    calls = re.compile(r"\.([A-Z]\w+)\(|\.([A-Z]\w+),")
    said: dict[tuple[str, str], bool] = {}
    done: dict[tuple[str, str], bool] = {}
    for rpc in reference_docs.rpcs():
        words = reference_docs.callers(rpc).split(", ")
        own = rpc.service.removesuffix("Service").lower()
        for service in {"ledger", "witness", "anchor", "gateway"} - {own}:
            said[rpc.name, service] = service in words or said.get((rpc.name, service), False)
            code = "".join(
                path.read_text("utf-8") for path in (REPO / f"services/{service}_svc").rglob("*.py")
            )
            done[rpc.name, service] = rpc.name in {a or b for a, b in calls.findall(code)}
    # These are called by `provledger.keyring`, on the services' behalf.
    for rpc_name in ("WatchKeys", "ReportSigner"):
        for service in ("ledger", "witness", "anchor"):
            said.pop((rpc_name, service))
            done.pop((rpc_name, service))
    assert {key for key, is_said in said.items() if is_said} == {
        key for key, is_done in done.items() if is_done
    }
