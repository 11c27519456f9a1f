"""One small loader for the settings of every service.

A service describes its settings as a frozen dataclass, one documented field each::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class Settings(ServerSettings):
        flush_items: int = field(
            default=1000, metadata={"doc": "Most items in one flush.", "unit": "items", "min": 1}
        )

Values come, later ones winning, from the field's default, a TOML file (the table named after
the service) and environment variables (`PROVLEDGER_<SERVICE>_<FIELD>`). An unknown key is an
error wherever it stands, so that a typing mistake never passes for a default.

Secrets are never values: settings hold paths and KMS URIs. The text of a value is repeated in
no error message all the same.

Field types: `str`, `int`, `float`, `bool`, `Path`, `Literal[...]`, enums of text,
`tuple[str, ...]` (comma separated in the environment), `Mapping[str, tuple[str, ...]]`
(`name=a,b;other=c` in the environment) and `X | None` of any of them.
"""

from __future__ import annotations

import dataclasses
import enum
import os
import re
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from provledger.errors import ProvledgerError

T = TypeVar("T")

SERVICES = ("keys", "witness", "ledger", "anchor", "gateway", "notary")
"""Tables that one TOML file may hold side by side; any other table is taken for a mistake."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class ConfigError(ProvledgerError):
    """A setting, or a combination of them, that a service cannot start with."""


@dataclasses.dataclass(frozen=True, slots=True)
class SettingRow:
    """One setting, for the documentation; `default` is its text or "required"."""

    field: str
    env: str
    type: str
    default: str
    unit: str
    doc: str


def env_name(service: str, field: str) -> str:
    """Name of the environment variable for `field` of `service`."""
    return f"PROVLEDGER_{service}_{field}".upper().replace("-", "_")


def load(
    cls: type[T],
    service: str,
    *,
    env: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> T:
    """Build `cls` for `service` from the environment, a TOML file and the defaults.

    Raises:
        ConfigError: naming the field, for an unknown key, a value of the wrong type or out of
            bounds, a missing required field, or a file that cannot be read.
    """
    environ = os.environ if env is None else env
    hints = _hints(cls)
    values: dict[str, Any] = {}
    if file is not None:
        for key, raw in _file_table(file, service).items():
            where = f"{file}: [{service}] {key}"
            if key not in hints:
                raise ConfigError(f"{where}: unknown setting; known are {_known(hints)}")
            values[key] = _from_toml(hints[key], raw, where)
    by_env = {env_name(service, name): name for name in hints}
    prefix = env_name(service, "")
    for variable, text in environ.items():
        if not variable.startswith(prefix):
            continue
        if variable not in by_env:
            raise ConfigError(f"{variable}: unknown setting; known are {_known(hints)}")
        name = by_env[variable]
        values[name] = _from_text(hints[name], text, variable)
    for item in _fields(cls):
        if item.name in values:
            _check_bounds(item, values[item.name], env_name(service, item.name))
        elif _required(item):
            raise ConfigError(f"{env_name(service, item.name)}: required, but not set")
    return cls(**values)


def one_text(
    service: str, field: str, env: Mapping[str, str], file: Path | None, default: str = ""
) -> str:
    """The text of one setting, for whoever needs little of a service; not checked further.

    Raises:
        ConfigError: the file cannot be read.
    """
    if env_name(service, field) in env:
        return env[env_name(service, field)]
    table = {} if file is None else _file_table(file, service)
    return str(table.get(field, default))


def describe(cls: type[Any], service: str) -> list[SettingRow]:
    """Rows for the documentation, one for each field in order.

    Raises:
        ConfigError: for a field without a `doc` in its metadata.
    """
    hints = _hints(cls)
    rows = []
    for item in _fields(cls):
        doc = item.metadata.get("doc")
        if not doc:
            raise ConfigError(f"{cls.__name__}.{item.name} has no doc in its metadata")
        rows.append(
            SettingRow(
                field=item.name,
                env=env_name(service, item.name),
                type=_type_text(hints[item.name]),
                default=_default_text(item),
                unit=str(item.metadata.get("unit", "")),
                doc=str(doc),
            )
        )
    return rows


def _fields(cls: type[Any]) -> tuple[dataclasses.Field[Any], ...]:
    return tuple(item for item in dataclasses.fields(cls) if item.init)


def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls)
    return {item.name: hints[item.name] for item in _fields(cls)}


def _known(hints: Mapping[str, Any]) -> str:
    return ", ".join(sorted(hints))


def _required(item: dataclasses.Field[Any]) -> bool:
    missing = dataclasses.MISSING
    return item.default is missing and item.default_factory is missing


def _default_text(item: dataclasses.Field[Any]) -> str:
    if _required(item):
        return "required"
    factory = item.default_factory
    value = item.default if factory is dataclasses.MISSING else factory()
    if isinstance(value, enum.Enum):
        value = value.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return ",".join(str(part) for part in value)
    if isinstance(value, Mapping):
        return ";".join(f"{key}={','.join(parts)}" for key, parts in value.items())
    return "" if value is None else str(value)


def _file_table(file: Path, service: str) -> Mapping[str, Any]:
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not TOML: {error}") from error
    for name, table in document.items():
        if name not in SERVICES and name != service:
            raise ConfigError(f"{file}: unknown table {name!r}; known are {', '.join(SERVICES)}")
        if not isinstance(table, dict):
            raise ConfigError(f"{file}: {name!r} must be a table: write [{name}]")
    table = document.get(service, {})
    return typing.cast(Mapping[str, Any], table)


def _split_optional(hint: Any) -> tuple[Any, bool]:
    """`X | None` as (X, True), anything else as (hint, False)."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        inner = [part for part in typing.get_args(hint) if part is not type(None)]
        if len(inner) == 1:
            return inner[0], True
    return hint, False


def _is_mapping(hint: Any) -> bool:
    return typing.get_origin(hint) in (Mapping, dict)


def _type_text(hint: Any) -> str:
    hint, optional = _split_optional(hint)
    if typing.get_origin(hint) is Literal:
        text = " | ".join(str(value) for value in typing.get_args(hint))
    elif typing.get_origin(hint) is tuple:
        text = "list"
    elif _is_mapping(hint):
        text = "map of lists"
    elif isinstance(hint, type) and issubclass(hint, enum.Enum):
        text = " | ".join(str(member.value) for member in hint)
    else:
        text = {str: "text", int: "integer", float: "number", bool: "true | false"}.get(
            hint, "path" if hint is Path else str(hint)
        )
    return f"{text}, or unset" if optional else text


def _from_text(hint: Any, text: str, where: str) -> Any:
    """Convert the text of an environment variable."""
    hint, optional = _split_optional(hint)
    if optional and text == "":
        return None
    if typing.get_origin(hint) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if _is_mapping(hint):
        return _mapping_from_text(text, where)
    if hint is bool:
        lowered = text.strip().lower()
        if lowered not in _TRUE | _FALSE:
            raise ConfigError(f"{where}: must be true or false")
        return lowered in _TRUE
    if hint is int or hint is float:
        return _convert(hint, text, where, "an integer" if hint is int else "a number")
    return _from_scalar(hint, text, where)


def _mapping_from_text(text: str, where: str) -> dict[str, tuple[str, ...]]:
    result: dict[str, tuple[str, ...]] = {}
    for part in filter(None, (part.strip() for part in text.split(";"))):
        key, equals, names = part.partition("=")
        if not equals or not key.strip() or key.strip() in result:
            raise ConfigError(f"{where}: must read name=a,b;other=c with each name once")
        result[key.strip()] = tuple(name.strip() for name in names.split(",") if name.strip())
    return result


def _from_toml(hint: Any, raw: Any, where: str) -> Any:
    """Convert a TOML value, which has a type of its own already."""
    hint, _ = _split_optional(hint)
    if typing.get_origin(hint) is tuple:
        return _text_tuple(raw, where)
    if _is_mapping(hint):
        if not isinstance(raw, dict):
            raise ConfigError(f"{where}: must be a table of lists of text")
        return {key: _text_or_tuple(value, f"{where}.{key}") for key, value in raw.items()}
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if hint in (bool, int, float):
        if type(raw) is not hint:
            raise ConfigError(f"{where}: must be {_type_text(hint)}")
        return raw
    if not isinstance(raw, str):
        raise ConfigError(f"{where}: must be text")
    return _from_scalar(hint, raw, where)


def _text_or_tuple(raw: Any, where: str) -> tuple[str, ...]:
    """A map's value: of a list that would have one element, that element will do."""
    if isinstance(raw, str) or (isinstance(raw, int | float) and not isinstance(raw, bool)):
        return (str(raw),)
    return _text_tuple(raw, where)


def _text_tuple(raw: Any, where: str) -> tuple[str, ...]:
    if not isinstance(raw, list) or not all(isinstance(part, str) for part in raw):
        raise ConfigError(f"{where}: must be a list of text")
    return tuple(raw)


def _from_scalar(hint: Any, text: str, where: str) -> Any:
    if hint in (str, Path) and _CONTROL.search(text):
        # A file with a value often ends in a newline, which would make another path or URL of it.
        raise ConfigError(f"{where}: holds a line break or another control character")
    if hint is str:
        return text
    if hint is Path:
        if not text:
            raise ConfigError(f"{where}: must be a path")
        return Path(text)
    if typing.get_origin(hint) is Literal:
        if text not in typing.get_args(hint):
            raise ConfigError(f"{where}: must be one of {_type_text(hint)}")
        return text
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return _convert(hint, text, where, f"one of {_type_text(hint)}")
    raise ConfigError(f"{where}: a field of type {hint} cannot be set")


def _convert(convert: Callable[[str], Any], text: str, where: str, wanted: str) -> Any:
    try:
        value = convert(text.strip())
    except ValueError:
        # Without the original: its message repeats the value.
        raise ConfigError(f"{where}: must be {wanted}") from None
    return value


def _check_bounds(item: dataclasses.Field[Any], value: Any, where: str) -> None:
    low, high = item.metadata.get("min"), item.metadata.get("max")
    if not isinstance(value, int | float) or isinstance(value, bool):
        return
    # Written so that NaN, which compares false with everything, is refused too.
    if low is not None and not value >= low:
        raise ConfigError(f"{where}: must be at least {low}")
    if high is not None and not value <= high:
        raise ConfigError(f"{where}: must be at most {high}")
    if value != value:
        raise ConfigError(f"{where}: must be a number")
