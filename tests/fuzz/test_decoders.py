"""The corpus, and inputs near it, through every decoder; `make fuzz` goes on from there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import main
from tests.fuzz.instrumented import INSTRUMENTED
from tests.fuzz.mutate import damaged
from tests.fuzz.seeds import CORPUS, SEEDS, inputs
from tests.fuzz.targets import DECODERS, TARGETS
from tests.support.good_requests import SERVICES

REPO = Path(__file__).resolve().parents[2]
EXAMPLES = int(os.environ.get("PROVLEDGER_FUZZ_EXAMPLES", "40"))


@pytest.mark.parametrize("name", TARGETS)
def test_corpus_raises_only_errors_of_ours(name: str) -> None:
    for data in inputs(name):
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_raise_only_errors_of_ours(name: str) -> None:
    @settings(
        max_examples=EXAMPLES,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(inputs(name)))
    def run(data: bytes) -> None:
        TARGETS[name](data)

    run()


@settings(max_examples=EXAMPLES, database=None)
@given(data=st.binary(max_size=2000))
def test_anything_raises_only_errors_of_ours(data: bytes) -> None:
    for run in TARGETS.values():
        run(data)


# What these take belongs to another request.
REFUSED = {"page_token"}


@pytest.mark.parametrize("name", sorted(set(TARGETS) - REFUSED))
def test_inputs_made_here_are_taken(name: str) -> None:
    """Otherwise fuzzing would begin at the first check and stay there."""
    for data in SEEDS[name]:
        DECODERS[name](data)


def test_every_rpc_has_a_target() -> None:
    """A method that is added to a contract has one at once, and needs a good request."""
    names = {
        f"rpc_{service}_{method.name}"
        for service, descriptor in SERVICES.items()
        for method in descriptor.methods
    }
    assert len(names) >= 47
    assert names <= set(TARGETS)


def test_all_of_ours_is_instrumented() -> None:
    """A decoder whose code the fuzzer cannot see is fuzzed blindly."""
    ours = {path.parent.name for path in (REPO / "services").glob("*/__init__.py")}
    assert ours | {"provledger"} <= set(INSTRUMENTED)


def test_every_target_has_inputs_and_every_input_a_target() -> None:
    assert set(SEEDS) == set(TARGETS)
    assert {path.stem for path in CORPUS.glob("*.txt")} <= set(TARGETS)
    assert not [path.name for path in CORPUS.glob("*.txt") if not path.stat().st_size]


@pytest.mark.parametrize("option", ["--each", "--seconds"])
def test_no_time_at_all_is_refused(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Zero was taken for not given."""
    monkeypatch.setattr("sys.argv", ["fuzz", option, "0", "no-such-target"])
    with pytest.raises(SystemExit):
        main()
    assert "--each are at least 1" in capsys.readouterr().err


def test_nothing_is_broken_where_atheris_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each target was called broken, behind a ModuleNotFoundError."""
    monkeypatch.setattr("sys.argv", ["fuzz", "json"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("tests.fuzz.__main__._run", lambda *_: pytest.fail("a target was run"))
    assert main() == 2
    said = capsys.readouterr()
    assert "atheris is not installed" in said.err
    assert "make fuzz" in said.err
    assert not said.out
