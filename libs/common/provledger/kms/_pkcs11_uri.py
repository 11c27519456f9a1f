"""PKCS#11 URIs (RFC 7512), as far as we use them, read strictly.

::

    pkcs11:token=ledger;object=witness-1;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so
        &pin-source=file:/run/secrets/pin

============ =========================================================================
token        label of the token; or `serial`, or both. `manufacturer`, `model` narrow it
object, id   label (CKA_LABEL) and id (CKA_ID, any bytes) of the private key; one is enough
type         only `private`, which is meant anyway
module-path  the provider's library; see `allowed_module`
pin-source   `file:` and a path; relative ones begin in the key directory
============ =========================================================================

The PIN itself never stands in a URI (`pin-value`): URIs are kept in a registry and shown in logs.
One that is refused may hold a PIN under a misspelt name: errors show values of known names only.
Attributes that RFC 7512 knows and we do not act on are errors too, since ignoring one could mean
another key than the one that was meant.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from provledger.kms.errors import KMSConfigError, KMSPermissionError

MODULES_ENV: Final = "PROVLEDGER_PKCS11_MODULES"
"""Libraries that may be loaded besides those below `MODULE_ROOTS`, separated by colons."""

MODULE_ROOTS: Final = ("/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/local/lib64", "/opt")

_SCHEME: Final = "pkcs11:"
_PATH_ATTRIBUTES: Final = frozenset(
    {"token", "serial", "manufacturer", "model", "object", "id", "type"}
)
_QUERY_ATTRIBUTES: Final = frozenset({"module-path", "pin-source"})
# RFC 7512 §2.3: pk11-pchar and pk11-qchar; everything else is percent-encoded.
_VALUE: Final = re.compile(r"(?:[A-Za-z0-9_.~:\[\]@!$'()*+,=&-]|%[0-9A-Fa-f]{2})*")
_QUERY_VALUE: Final = re.compile(r"(?:[A-Za-z0-9_.~:\[\]@!$'()*+,=/?|-]|%[0-9A-Fa-f]{2})*")


@dataclass(frozen=True, slots=True)
class PKCS11URI:
    """One key in one token. Empty text, `id` and `pin_source` None, where nothing was said."""

    uri: str
    token: str
    serial: str
    manufacturer: str
    model: str
    object: str
    id: bytes | None
    module_path: Path
    pin_source: Path | None

    @property
    def token_name(self) -> str:
        """The token, for messages."""
        return f"token {self.token!r}" if self.token else f"token with serial {self.serial!r}"


def parse(uri: str, key_dir: Path) -> PKCS11URI:
    """Read a PKCS#11 URI; raises KMSConfigError saying which part is wrong. Touches no file."""
    if not uri.startswith(_SCHEME):
        raise KMSConfigError("key URI: must look like pkcs11:token=T;object=O?module-path=P")
    if "pin-value" in uri:
        # The URI may hold a PIN, so it is not repeated.
        raise KMSConfigError(
            "a pkcs11: key URI must not hold a PIN (pin-value); write it to a file of ours with "
            "mode 0600 and give pin-source=file:/path"
        )
    path_text, _, query_text = uri.removeprefix(_SCHEME).partition("?")
    shown = _shown(path_text, query_text)
    path = _attributes(shown, path_text, ";", _PATH_ATTRIBUTES, _VALUE)
    query = _attributes(shown, query_text, "&", _QUERY_ATTRIBUTES, _QUERY_VALUE)
    text = {name: _text(shown, name, raw) for name, raw in (path | query).items() if name != "id"}
    if text.get("type", "private") != "private":
        raise KMSConfigError(f"key URI {shown!r}: type must be private, or left out")
    if not (text.get("token") or text.get("serial")):
        raise KMSConfigError(f"key URI {shown!r}: must name the token by token= or serial=")
    if not (text.get("object") or path.get("id")):
        raise KMSConfigError(f"key URI {shown!r}: must name the key by object= or id=")
    return PKCS11URI(
        uri=uri,
        token=text.get("token", ""),
        serial=text.get("serial", ""),
        manufacturer=text.get("manufacturer", ""),
        model=text.get("model", ""),
        object=text.get("object", ""),
        id=path.get("id"),
        module_path=_module_path(shown, text.get("module-path", "")),
        pin_source=_pin_source(shown, text["pin-source"], key_dir)
        if "pin-source" in text
        else None,
    )


def beside(uri: PKCS11URI, label: str, key_id: bytes) -> str:
    """Return the URI of a key with a label and an id (CKA_ID) in the same token."""
    path, _, query = uri.uri.removeprefix(_SCHEME).partition("?")
    own = ("object", "id", "type")
    kept = [part for part in path.split(";") if part.partition("=")[0] not in own]
    kept.append(f"object={quote(label, safe='')}")
    kept.append(f"id={''.join(f'%{byte:02X}' for byte in key_id)}")
    return f"{_SCHEME}{';'.join(kept)}?{query}"


def allowed_module(uri: PKCS11URI) -> Path:
    """Return the library to load, symbolic links resolved.

    URIs come from the key registry, and loading a library is running it. So it has to lie where
    only the system's administrator installs, or be one that this service's own environment names.

    Raises:
        KMSConfigError: there is no such file. KMSPermissionError: it may not be loaded.
    """
    listed = [part for part in os.environ.get(MODULES_ENV, "").split(":") if part]
    path = uri.module_path.resolve()
    if not path.is_file():
        raise KMSConfigError(f"key URI {uri.uri!r}: there is no PKCS#11 module {uri.module_path}")
    allowed = any(path.is_relative_to(root) for root in MODULE_ROOTS)
    if not allowed and path not in {Path(part).resolve() for part in listed}:
        raise KMSPermissionError(
            f"key URI {uri.uri!r}: {uri.module_path} is not below {', '.join(MODULE_ROOTS)}; "
            f"if it is meant, add it to {MODULES_ENV} in this service's environment"
        )
    return path


def _shown(path_text: str, query_text: str) -> str:
    """The URI for messages: what may be a PIN in the wrong place is left out."""
    path = ";".join(_shown_attribute(part) for part in path_text.split(";"))
    query = "&".join(_shown_attribute(part) for part in query_text.split("&"))
    return f"{_SCHEME}{path}?{query}" if query_text else f"{_SCHEME}{path}"


def _shown_attribute(part: str) -> str:
    name, equals, raw = part.partition("=")
    known = name in _PATH_ATTRIBUTES | _QUERY_ATTRIBUTES
    if not part or (known and not raw):
        return part
    if not equals:
        return "..."
    # In the place of the file, it would be a PIN.
    return part if known and (name != "pin-source" or raw.startswith("file:")) else f"{name}=..."


def _attributes(
    shown: str, text: str, separator: str, known: frozenset[str], value: re.Pattern[str]
) -> dict[str, bytes]:
    """Split one half of the URI; each attribute once, decoded, not empty."""
    found: dict[str, bytes] = {}
    for part in text.split(separator) if text else []:
        name, equals, raw = part.partition("=")
        if not equals or not raw:
            raise KMSConfigError(
                f"key URI {shown!r}: {_shown_attribute(part)!r} must read name=value"
            )
        if name not in known:
            elsewhere = _PATH_ATTRIBUTES | _QUERY_ATTRIBUTES
            hint = (
                f"{name} stands on the other side of the ?"
                if name in elsewhere
                else f"unknown attribute {name}; known are {', '.join(sorted(known))}"
            )
            raise KMSConfigError(f"key URI {shown!r}: {hint}")
        if name in found:
            raise KMSConfigError(f"key URI {shown!r}: {name} is given twice")
        if value.fullmatch(raw) is None:
            raise KMSConfigError(
                f"key URI {shown!r}: {name} holds a character that must be percent-encoded"
            )
        found[name] = unquote_to_bytes(raw)
    return found


def _text(shown: str, name: str, raw: bytes) -> str:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise KMSConfigError(f"key URI {shown!r}: {name} is not UTF-8") from None
    if not text.isprintable():
        raise KMSConfigError(f"key URI {shown!r}: {name} holds a control character")
    return text


def _module_path(shown: str, text: str) -> Path:
    path = Path(text)
    if not text or not path.is_absolute() or ".." in path.parts:
        raise KMSConfigError(
            f"key URI {shown!r}: needs ?module-path= with the absolute path of the PKCS#11 library"
        )
    return path


def _pin_source(shown: str, text: str, key_dir: Path) -> Path:
    # RFC 7512 §2.4 leaves other forms open, such as a program to run; none of them is for us.
    scheme, _, rest = text.partition(":")
    path = Path(rest.removeprefix("//"))
    if scheme != "file" or not path.name or ".." in path.parts:
        raise KMSConfigError(f"key URI {shown!r}: pin-source must be file: and a path, without ..")
    return path if path.is_absolute() else key_dir / path
