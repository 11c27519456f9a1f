"""Fixtures that every test may use: databases, and hypothesis set up for shared machines."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from tests.thorough import THOROUGH

_HERE = Path(__file__).parent

# Read when gRPC is first imported. Tests start processes while its threads are at work, and its
# fork handlers must not run in a child that is about to become another program.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

# No deadline: the machines that run this are shared and slow down without warning.
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "default")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Options of ours."""
    parser.addoption(
        "--fault-seed",
        type=int,
        default=None,
        help="make the choices of an earlier run of tests/faults again",
    )
    parser.addoption(
        "--thorough",
        action="store_true",
        help="run the files of tests/thorough.py as well, as CI does; a path that is named runs "
        "whole either way",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose a seed, and how much is run; a worker of xdist is told what was chosen.

    The seed is one and the same in CI, so that a red run is the change's doing; anew elsewhere.
    """
    chosen = getattr(config, "workerinput", None)
    if chosen is not None:
        config.option.fault_seed = chosen["fault_seed"]
        config.option.thorough = chosen["thorough"]
        return
    if config.option.fault_seed is None:
        config.option.fault_seed = 1 if os.environ.get("CI") else secrets.randbelow(2**32)
    config.option.thorough |= config.args_source is not pytest.Config.ArgsSource.TESTPATHS


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker. By itself it would choose again: xdist hands on the command line alone."""
    node.workerinput["fault_seed"] = node.config.option.fault_seed
    node.workerinput["thorough"] = node.config.option.thorough


# Folders whose tests wait for processes more than they compute.
_FIRST = ("e2e", "faults", "integration")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what waits, so that no worker is left with it when the quick ones are done."""
    if not config.option.thorough:
        left_out = [item for item in items if _is_thorough(item)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not _is_thorough(item)]

    def place(item: pytest.Item) -> int:
        folder = item.path.parent.name
        return _FIRST.index(folder) if folder in _FIRST else len(_FIRST)

    items.sort(key=place)


def _is_thorough(item: pytest.Item) -> bool:
    return item.path.relative_to(_HERE).as_posix() in THOROUGH


def pytest_report_header(config: pytest.Config) -> str:
    """Say the seed at the start; tests that use it say it again where they fail."""
    mode = "full" if os.environ.get("PROVLEDGER_FAULTS") == "full" else "sampled"
    extent = "all" if config.option.thorough else "without tests/thorough.py (--thorough: all)"
    return f"tests: {extent}\nfaults: {mode}, --fault-seed {config.option.fault_seed}"


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """URL of a PostgreSQL server in which the tests may create and drop databases.

    PROVLEDGER_TEST_DATABASE_URL if that is set (its user needs CREATEDB), otherwise a server
    started for this session; with xdist, one for each worker.
    """
    given = os.environ.get("PROVLEDGER_TEST_DATABASE_URL")
    if given:
        yield given
        return
    from tests.support.postgres import running_postgres

    with running_postgres() as url:
        yield url


@pytest.fixture
def postgres_database_url(postgres_url: str) -> Iterator[str]:
    """URL of an empty PostgreSQL database that exists for one test."""
    from tests.support.postgres import fresh_database

    with fresh_database(postgres_url) as url:
        yield url


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """URL of an empty database that exists for one test, which runs once for each backend."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'provledger.sqlite3'}"
    url: str = request.getfixturevalue("postgres_database_url")
    return url
