"""What a supervisor is started with."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from provledger_cli import running
from provledger_cli.datadir import DataDir


@pytest.mark.parametrize("given", ["prov.toml", "../prov.toml", "/etc/prov.toml"])
def test_a_configuration_file_is_found_from_the_data_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    """It runs there, and the path was written from here."""
    started: dict[str, dict[str, str]] = {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.update(options))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PROVLEDGER_CONFIG", given)
    monkeypatch.setenv("PROVLEDGER_LEDGER_TENANT_QUOTAS", "*=5")
    directory = DataDir.at(tmp_path / "data")
    directory.path.mkdir()
    (directory.path / "logs").mkdir()
    running.spawn_supervisor(directory)
    found = Path(started["env"]["PROVLEDGER_CONFIG"])
    assert found.is_absolute()
    assert found == (tmp_path / given).resolve()
    assert started["env"]["PROVLEDGER_LEDGER_TENANT_QUOTAS"] == "*=5"
