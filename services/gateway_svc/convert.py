"""Documents of the gateway, as JSON and as a page to read: the index of logs."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from gateway_svc.jwks import KeyDocument
from gateway_svc.published import Published, prefix_of


def index_to_json(logs: Sequence[Published], keys: KeyDocument | None) -> bytes:
    """The index: each log with origin, path, published tree size and verifier keys."""
    return json.dumps({"logs": [_log(each, keys) for each in logs]}, indent=2).encode() + b"\n"


def index_to_html(logs: Sequence[Published], keys: KeyDocument | None) -> bytes:
    """The same for people."""
    rows = []
    for each in logs:
        listed = _log(each, keys)
        item = {name: html.escape(str(value)) for name, value in listed.items()}
        vkeys = "<br>".join(html.escape(vkey) for vkey in listed["vkeys"])
        rows.append(
            f'<tr><td><a href="{item["path"]}checkpoint">{item["origin"]}</a></td>'
            f"<td>{item['tree_size']}</td><td><code>{vkeys}</code></td></tr>"
        )
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>Logs</title><h1>Logs</h1>"
        "<p>Readable by every tool that knows "
        '<a href="https://c2sp.org/tlog-tiles">c2sp.org/tlog-tiles</a>. Take verifier keys from '
        "where you trust them, not from here.</p>"
        "<table><tr><th>origin<th>tree size<th>verifier keys</tr>"
        f'{"".join(rows)}</table><p><a href="/.well-known/jwks.json">public keys</a></html>\n'
    ).encode()


def _log(each: Published, keys: KeyDocument | None) -> dict[str, Any]:
    prefix = prefix_of(each.origin)
    return {
        "origin": each.origin,
        "path": f"/{prefix}/" if prefix else "/",
        "tree_size": each.size,
        "vkeys": [] if keys is None else keys.vkeys(each.note, each.origin),
    }
