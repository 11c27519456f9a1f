"""`https://host/prefix?protocol=...`: somebody else's server, by one of two protocols.

- `tlog-witness`: a cosigner (`sinks.cosigner`); `vkey=` (percent-encoded, may come twice) says
  whose cosignatures count. A policy file's `witness` lines make such sinks too.
- `rfc3161`: a timestamp authority (`sinks.tsa`); `cert=` and `chain=` are PEM files: its own
  certificate, and those above it.

http:// is for a loopback address or localhost only. A parameter that is not known is an error;
anything that belongs to the server's own URL goes before it, as part of the path.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit, urlunsplit

from anchor_svc.sinks import AnchorSink
from anchor_svc.sinks.cosigner import CosignerSink
from anchor_svc.sinks.http import check_url
from anchor_svc.sinks.tsa import TimestampSink
from provledger.errors import KeyFormatError, NoteError
from provledger.note import parse_vkey
from provledger.settings import ConfigError
from provledger.timestamp import Authority


def open_notary(uri: str) -> AnchorSink:
    """The sink that a URI means; raises ConfigError."""
    check_url(uri)
    parts = urlsplit(uri)
    try:
        # A plus stands for itself here: vkeys are full of them.
        query = parse_qs(parts.query.replace("+", "%2B"), strict_parsing=True, max_num_fields=20)
    except ValueError as error:
        raise ConfigError(
            "sinks: a notary's URI needs ?protocol=tlog-witness or rfc3161"
        ) from error
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    protocol = query.pop("protocol", [""])
    if protocol == ["tlog-witness"] and query.keys() == {"vkey"}:
        try:
            keys = [parse_vkey(text) for text in query["vkey"]]
        except NoteError as error:
            raise ConfigError(f"sinks: vkey: {error}") from error
        return CosignerSink(uri, url, keys)
    if protocol == ["rfc3161"] and query.keys() == {"cert", "chain"}:
        return TimestampSink(uri, url, read_authority(query["cert"][0], query["chain"][0]))
    raise ConfigError(
        "sinks: a notary's URI ends in ?protocol=tlog-witness&vkey=..., or in "
        "?protocol=rfc3161&cert=FILE&chain=FILE"
    )


def read_authority(certificate: str, chain: str) -> Authority:
    """A timestamp authority from two PEM files; raises ConfigError."""
    try:
        return Authority.from_pem(Path(certificate).read_bytes(), Path(chain).read_bytes())
    except OSError as error:
        raise ConfigError(f"sinks: {error.filename}: {error.strerror}") from error
    except KeyFormatError as error:
        raise ConfigError(f"sinks: {error}") from error
