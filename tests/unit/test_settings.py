"""Settings from environment, TOML file and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest

from provledger.rpc.settings import ServerSettings
from provledger.settings import SERVICES, ConfigError, describe, env_name, load


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    name: str = field(metadata={"doc": "A name."})
    items: int = field(default=5, metadata={"doc": "Items.", "unit": "items", "min": 1, "max": 9})
    wait_s: float = field(default=1.5, metadata={"doc": "Wait.", "unit": "seconds", "min": 0})
    strict: bool = field(default=False, metadata={"doc": "Strict."})
    file: Path | None = field(default=None, metadata={"doc": "A file."})
    hosts: tuple[str, ...] = field(default=("a", "b"), metadata={"doc": "Hosts."})
    rules: Mapping[str, tuple[str, ...]] = field(default_factory=dict, metadata={"doc": "Rules."})
    mode: Literal["fast", "safe"] = field(default="safe", metadata={"doc": "Mode."})
    colour: Colour = field(default=Colour.RED, metadata={"doc": "Colour."})


def from_env(**env: str) -> Example:
    return load(Example, "ledger", env={f"PROVLEDGER_LEDGER_{k}": v for k, v in env.items()})


def from_toml(tmp_path: Path, text: str, env: Mapping[str, str] | None = None) -> Example:
    file = tmp_path / "provledger.toml"
    file.write_text(text)
    return load(Example, "ledger", env=env or {}, file=file)


def test_a_map_of_a_file_may_hold_single_values(tmp_path: Path) -> None:
    table = '[ledger]\nname = "n"\nrules = {acme = 500, b = "x", "*" = 0.5, c = ["y", "z"]}'
    assert from_toml(tmp_path, table).rules == {
        "acme": ("500",),
        "b": ("x",),
        "*": ("0.5",),
        "c": ("y", "z"),
    }
    for bad in ("true", "[1]", "{a = 1}"):
        with pytest.raises(ConfigError, match=r"rules\.acme: must be a list of text"):
            from_toml(tmp_path, f'[ledger]\nname = "n"\nrules = {{acme = {bad}}}')


def test_defaults_apply_to_what_is_not_given() -> None:
    assert from_env(NAME="n") == Example(name="n")


def test_every_type_is_read_from_the_environment() -> None:
    assert from_env(
        NAME="n",
        ITEMS=" 7 ",
        WAIT_S="2",
        STRICT="YES",
        FILE="/a b",
        HOSTS="x, y,",
        RULES="p.S/M=a,b; * = *",
        MODE="fast",
        COLOUR="blue",
    ) == Example(
        name="n",
        items=7,
        wait_s=2.0,
        strict=True,
        file=Path("/a b"),
        hosts=("x", "y"),
        rules={"p.S/M": ("a", "b"), "*": ("*",)},
        mode="fast",
        colour=Colour.BLUE,
    )


def test_every_type_is_read_from_toml(tmp_path: Path) -> None:
    text = """
        [ledger]
        name = "n"
        items = 7
        wait_s = 2
        strict = true
        file = "/f"
        hosts = ["x"]
        mode = "fast"
        colour = "blue"
        rules = {"p.S" = ["a", "b"]}
        [anchor]
        anything = 1
    """
    assert from_toml(tmp_path, text) == Example(
        name="n",
        items=7,
        wait_s=2.0,
        strict=True,
        file=Path("/f"),
        hosts=("x",),
        mode="fast",
        colour=Colour.BLUE,
        rules={"p.S": ("a", "b")},
    )


def test_environment_wins_over_the_file(tmp_path: Path) -> None:
    text = '[ledger]\nname = "file"\nitems = 2'
    loaded = from_toml(tmp_path, text, {"PROVLEDGER_LEDGER_NAME": "env"})
    assert (loaded.name, loaded.items) == ("env", 2)


def test_variables_of_other_services_are_none_of_ours() -> None:
    env = {"PROVLEDGER_LEDGER_NAME": "n", "PROVLEDGER_ANCHOR_X": "1", "PROVLEDGER_LEDGERX": "1"}
    assert load(Example, "ledger", env=env) == Example(name="n")


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ({}, "PROVLEDGER_LEDGER_NAME: required"),
        ({"NAME": "n", "ITMES": "1"}, "PROVLEDGER_LEDGER_ITMES: unknown"),
        ({"NAME": "n", "ITEMS": "s3cret"}, "PROVLEDGER_LEDGER_ITEMS: must be an integer"),
        ({"NAME": "n", "ITEMS": "0"}, "PROVLEDGER_LEDGER_ITEMS: must be at least 1"),
        ({"NAME": "n", "ITEMS": "10"}, "PROVLEDGER_LEDGER_ITEMS: must be at most 9"),
        ({"NAME": "n", "WAIT_S": "nan"}, "PROVLEDGER_LEDGER_WAIT_S: must be"),
        ({"NAME": "n", "STRICT": "perhaps"}, "PROVLEDGER_LEDGER_STRICT: must be true or false"),
        ({"NAME": "n", "MODE": "s3cret"}, "PROVLEDGER_LEDGER_MODE: must be one of fast | safe"),
        ({"NAME": "n", "COLOUR": "s3cret"}, "must be one of red | blue"),
        ({"NAME": "n", "RULES": "a=b;a=c"}, "PROVLEDGER_LEDGER_RULES: must read"),
        ({"NAME": "n", "RULES": "nonsense"}, "PROVLEDGER_LEDGER_RULES: must read"),
    ],
)
def test_bad_environment_names_the_variable_and_not_its_value(
    env: dict[str, str], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        from_env(**env)
    assert message in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[ledger]\nnmae = 1", "nmae: unknown setting"),
        ("[legder]\nname = 'n'", "unknown table 'legder'"),
        ("ledger = 1", "must be a table"),
        ("[ledger]\nname = 1", "name: must be text"),
        ("[ledger]\nname = 'n'\nitems = '1'", "items: must be integer"),
        ("[ledger]\nname = 'n'\nitems = true", "items: must be integer"),
        ("[ledger]\nname = 'n'\nstrict = 1", "strict: must be true"),
        ("[ledger]\nname = 'n'\nhosts = 'a'", "hosts: must be a list"),
        ("[ledger]\nname = 'n'\nrules = 'a'", "rules: must be a table"),
        ("[ledger]\nname = 'n'\nitems = 99", "must be at most 9"),
        ("[ledger", "not TOML"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_toml(tmp_path, text)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load(Example, "ledger", env={}, file=tmp_path / "none.toml")


def test_empty_variable_unsets_an_optional_field() -> None:
    assert from_env(NAME="n", FILE="").file is None


def test_describe_has_a_row_for_each_field() -> None:
    rows = {row.field: row for row in describe(Example, "ledger")}
    assert list(rows) == [
        "name", "items", "wait_s", "strict", "file", "hosts", "rules", "mode", "colour",
    ]  # fmt: skip
    assert rows["items"].env == "PROVLEDGER_LEDGER_ITEMS"
    assert (rows["items"].type, rows["items"].default, rows["items"].unit) == (
        "integer", "5", "items",
    )  # fmt: skip
    assert rows["name"].default == "required"
    assert rows["file"].type == "path, or unset"
    assert (rows["mode"].type, rows["colour"].default) == ("fast | safe", "red")


def test_describe_insists_on_documentation() -> None:
    @dataclass(frozen=True)
    class Undocumented:
        field: Any = 1

    with pytest.raises(ConfigError, match="no doc"):
        describe(Undocumented, "x")


def test_settings_of_every_server_are_documented_and_load() -> None:
    assert len(describe(ServerSettings, "ledger")) >= 14
    assert load(ServerSettings, "ledger", env={}) == ServerSettings()
    assert env_name("ledger", "tls_cert") == "PROVLEDGER_LEDGER_TLS_CERT"


@pytest.mark.parametrize("variable", ["NAME", "FILE"])
def test_line_breaks_are_refused_and_not_repeated(variable: str) -> None:
    """A file with a value often ends in one, and SQLite would begin another database."""
    env = {"NAME": "n", variable: "s3cret\n"}
    with pytest.raises(ConfigError, match=f"{variable}: holds a line break") as caught:
        from_env(**env)
    assert "s3cret" not in str(caught.value)


def test_line_breaks_between_the_parts_of_a_list_do_no_harm() -> None:
    found = from_env(NAME="n", HOSTS="a,\n b\n", RULES="x=a,b;\ny=c\n", ITEMS="7\n")
    assert (found.hosts, dict(found.rules)) == (("a", "b"), {"x": ("a", "b"), "y": ("c",)})
    assert found.items == 7


def test_every_service_may_have_a_table_in_a_shared_file(tmp_path: Path) -> None:
    others = "".join(f"[{name}]\nx = 1\n" for name in SERVICES if name != "ledger")
    assert from_toml(tmp_path, f'{others}[ledger]\nname = "n"\n').name == "n"
    services = Path(__file__).resolve().parents[2] / "services"
    assert {path.parent.name for path in services.glob("*_svc/config.py")} == {
        f"{name}_svc" for name in SERVICES
    }


@pytest.mark.parametrize("name", ["MAX_MESSAGE_BYTES", "MAX_CONCURRENT_STREAMS",
                                  "MAX_CONCURRENT_RPCS"])  # fmt: skip
def test_numbers_that_grpc_cannot_take_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        load(ServerSettings, "ledger", env={f"PROVLEDGER_LEDGER_{name}": str(2**31)})
