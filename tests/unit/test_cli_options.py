"""What holds for every command: an example, `--json`, a twin in the environment for each option."""

from __future__ import annotations

import math
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer.main

from provledger import settings
from provledger.errors import (
    DataLossError,
    InvalidArgumentError,
    KeyFormatError,
    UnavailableError,
    VerificationError,
)
from provledger_cli import failures, keys_main, output
from provledger_cli.failures import CommandError
from provledger_cli.main import application
from provledger_cli.verbs.list_ import _time_ns, list_


def commands() -> dict[str, Any]:
    """Every verb with its command object."""
    root: Any = typer.main.get_command(application())
    found: dict[str, Any] = {}
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            found |= {f"{name} {verb}": sub for verb, sub in command.commands.items()}
        else:
            found[name] = command
    return found


def options(command: Any) -> list[Any]:
    return [parameter for parameter in command.params if parameter.name != "help"]


def test_the_verbs_are_those_of_the_manual() -> None:
    assert set(commands()) == {
        *("up", "down", "status", "import", "append", "get", "list", "export", "verify", "notary"),
        *("keys list", "keys show", "keys jwks", "keys rotate", "keys revoke", "keys rebuild"),
        "keys init",
        "fips status",
        *("anchor status", "anchor sinks", "anchor retry", "anchor policy"),
        "load",
        *("refresh", "backup", "restore", "monitor", "log fsck", "log split-view"),
    }
    root: Any = typer.main.get_command(keys_main.application())
    assert set(root.commands) == {"list", "show", "jwks", "init", "rotate", "revoke", "rebuild"}


@pytest.mark.parametrize("name", commands())
def test_a_verb_is_loaded_alone_and_as_among_all(name: str) -> None:
    words = name.split()
    alone: Any = typer.main.get_command(application([*words, "--json"]))
    for word in words:
        assert list(alone.commands) == [word]
        alone = alone.commands[word]
    assert [option.name for option in alone.params] == [
        option.name for option in commands()[name].params
    ]


def test_a_mistyped_verb_is_told_of_the_one_that_was_meant() -> None:
    done = run("statsu")
    assert done.returncode == 2
    assert "status" in done.stderr
    done = run("keys", "rotat")
    assert done.returncode == 2
    assert "rotate" in done.stderr


@pytest.mark.parametrize("name", commands())
def test_every_verb_shows_an_example_and_answers_in_json(name: str) -> None:
    command = commands()[name]
    assert "Example: " in command.help
    assert "--json" in [text for option in options(command) for text in option.opts]


@pytest.mark.parametrize("name", commands())
def test_every_option_has_a_twin_in_the_environment(name: str) -> None:
    for option in options(commands()[name]):
        assert option.envvar, f"{name} {option.opts}"
        assert str(option.envvar).startswith("PROVLEDGER_")


@pytest.mark.parametrize("name", commands())
def test_numbers_of_options_are_finite(name: str) -> None:
    """No bound of an option keeps "nan" out, and time limits of "inf" fail deep below."""
    for option in options(commands()[name]):
        if option.type_descriptor.annotation is float:
            assert option.callback is not None, option.name
            assert option.callback(None, option, 1.5) == 1.5
            for value in (math.inf, math.nan):
                with pytest.raises(typer.BadParameter):
                    option.callback(None, option, value)


def in_vain(command: Any, option: Any) -> list[str]:
    """Arguments that give an option, or an argument, nothing, and what else must be there."""
    needed = [each for each in options(command) if each.required and each is not option]
    words = [f"{each.opts[0]}=1" for each in needed if each.opts[0].startswith("--")]
    if option.opts[0].startswith("--"):
        words.append(f"{option.opts[0]}=")
    # Those before it in their order, and it.
    order = [each for each in options(command) if not each.opts[0].startswith("--")]
    given = [each for each in order if each is option or each.required]
    return [*words, "--", *("" if each is option else "1" for each in given)]


@pytest.mark.parametrize("name", commands())
def test_what_is_given_is_not_empty(name: str) -> None:
    """By "" many options mean that they were not given: what was asked for would be left out."""
    command = commands()[name]
    for option in options(command):
        if not getattr(option, "is_flag", False):
            with pytest.raises(typer.BadParameter) as raised:
                command.make_context(name, in_vain(command, option))
            assert raised.value.param is option


def test_a_repeated_option_of_blanks_is_not_left_out() -> None:
    verb = commands()["verify"]
    with pytest.raises(typer.BadParameter, match="empty"):
        verb.make_context("verify", ["x.ndjson", "--tsa-cert", "a.pem", "--tsa-cert", ""])


def test_a_variable_of_blanks_is_no_list_and_an_empty_one_is_not_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verb, arguments = commands()["monitor"], ["tiles", "--vkey", "k"]
    monkeypatch.setenv("PROVLEDGER_MONITOR_COSIGNER", "")
    assert not verb.make_context("monitor", [*arguments]).params["cosigner"]
    monkeypatch.setenv("PROVLEDGER_MONITOR_COSIGNER", " ")
    with pytest.raises(typer.BadParameter, match="empty"):
        verb.make_context("monitor", [*arguments])


def test_no_twin_is_taken_for_a_setting_of_a_service() -> None:
    """Services refuse variables under their own prefix that they do not know."""
    for name, command in commands().items():
        # What the command itself runs takes its options for the settings they are.
        others = [service for service in settings.SERVICES if service != name]
        prefixes = tuple(settings.env_name(service, "") for service in others)
        for option in options(command):
            assert not str(option.envvar).startswith(prefixes)


def test_a_twin_means_the_same_option_everywhere() -> None:
    """Sharing a variable is fine between verbs, not within one."""
    for name, command in commands().items():
        twins = [option.envvar for option in options(command)]
        assert len(set(twins)) == len(twins), name


def run(*arguments: str, module: str = "provledger_cli") -> subprocess.CompletedProcess[str]:
    return _run(sys.executable, "-m", module, *arguments)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={"PROVLEDGER_DATA_DIR": "/dev/null/provledger", "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["import"],
        ["import", "x.ndjson", "--tenant", "t", "--batch", "0"],
        ["list", "--tenant", "t"],
        ["list", "--tenant", "T!"],
        ["list", "--tenant", "t", "--since", "yesterday"],
        ["get", "not-a-uuid", "--tenant", "t"],
        ["get", "bare"],
        ["status"],
        ["up"],
        ["keys", "show", "no/such"],
        ["keys", "rotate", "--kid", "a", "--uri", "local:a.pem"],
        ["status", "--endpoint", "127.0.0.1:1"],
    ],
)
def test_usage_errors_and_absent_services_are_could_not_tell(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.strip()
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]])
def test_an_empty_file_does_not_take_a_policy_back(dry_run: list[str]) -> None:
    """What a cut or emptied file says is nothing; to take a policy back has an option."""
    done = run("anchor", "policy", "--set", "/dev/null", *dry_run, "--endpoint", "127.0.0.1:1")
    assert done.returncode == 2
    assert "/dev/null is empty" in done.stderr
    assert "--clear" in done.stderr


def closed(redirection: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that a shell starts without one of its streams."""
    command = shlex.join([sys.executable, "-m", "provledger_cli", *arguments])
    return _run("sh", "-c", f"{command} {redirection}")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["up"],
        ["down"],
        ["status", "--json"],
        ["list", "--tenant", "t"],
        ["append", "--tenant", "t"],
        ["keys", "jwks"],
        ["verify", "x.ndjson", "--keys", "x.json"],
    ],
)
def test_without_a_stdout_nothing_is_begun(arguments: list[str]) -> None:
    done = closed(">&-", *arguments)
    assert (done.returncode, "standard output is closed" in done.stderr) == (2, True)
    assert "Traceback" not in done.stderr
    assert "data directory" not in done.stderr


def test_what_needs_no_stdout_goes_on_without(tmp_path: Any) -> None:
    name = "tenants/t/ledgers/main/receipts/01a214d4-1592-724e-a4e4-495cfb67c126"
    for verb in (["get", name], ["keys", "jwks"]):
        done = closed(">&-", *verb, "--out", str(tmp_path / "x"))
        assert (done.returncode, "provledger up" in done.stderr) == (2, True)


def test_other_closed_streams_are_no_fault_of_ours(tmp_path: Any) -> None:
    done = closed("2>&-", "down", "--data-dir", str(tmp_path), "--json")
    assert (done.returncode, '"stopped": false' in done.stdout) == (0, True)
    for verb in (["append", "--tenant", "t"], ["import", "-", "--tenant", "t"]):
        done = closed("<&-", *verb, "--endpoint", "127.0.0.1:1")
        assert (done.returncode, "standard input is closed" in done.stderr) == (2, True)
    assert closed(">&- 2>&- <&-", "status").returncode == 2


def test_keys_stands_alone_too() -> None:
    done = run("list", module="provledger_cli.keys_main")
    assert done.returncode == 2
    assert "provledger up" in done.stderr


def test_stopping_what_does_not_run_is_no_error(tmp_path: Any) -> None:
    done = run("down", "--data-dir", str(tmp_path), "--json")
    assert done.returncode == 0
    assert '"stopped": false' in done.stdout


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (CommandError("x", hint="y"), 2),
        (VerificationError("x", check="entry"), 1),
        (DataLossError("ROW_BROKEN", "seq 3"), 1),
        (UnavailableError("DOWN", "x"), 2),
        (InvalidArgumentError("X", "x"), 2),
        (KeyFormatError("x"), 2),
        (FileNotFoundError(2, "No such file", "x"), 2),
        (RuntimeError("x"), 2),
    ],
)
def test_errors_have_an_exit_code_and_say_what_to_do(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    output.use_json(True)
    try:
        assert failures.report(error) == code
    finally:
        output.use_json(False)
    said = capsys.readouterr()
    assert "error: " in said.err
    assert '"error"' in said.out


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", 0),
        ("1970-01-01T00:00:01Z", 1_000_000_000),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("2025-11-20T19:00:00.123456789z", 1_763_665_200_123_456_789),
    ],
)
def test_times_keep_their_nanoseconds(text: str, expected: int) -> None:
    assert _time_ns(text, "--since") == expected


@pytest.mark.parametrize("text", ["1970-01-01T00:00:00Z", "1970-01-01T01:00:00.000+01:00"])
def test_an_end_at_the_first_moment_is_refused_and_not_taken_for_none(text: str) -> None:
    with pytest.raises(CommandError, match="nothing is recorded before 1970"):
        list_(tenant="acme", until=text)


def test_a_self_test_that_status_has_not_is_refused() -> None:
    """It opens no key: with an answer of 0, nothing would have been made to fail."""
    done = run("fips", "status", "--fips-fail-kat=pairwise")
    assert done.returncode == 2
    assert "where no key is opened" in done.stderr
    assert "witness_svc --fips-fail-kat=pairwise" in done.stderr
