"""The benchmarks that start services of their own beside those of `up`: that they run at all."""

from __future__ import annotations

from pathlib import Path

from tests.bench import endtoend, writers

COUNT = 1_000


async def test_more_services_join_those_that_run(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with endtoend.services(data, None) as running:
        async with endtoend.client_of(running) as client:
            found = await writers.two_against_one(running, client, tmp_path, None, COUNT)
            assert found["ratio"] > 0
            loops = await writers.loops(running, data, tmp_path, COUNT)
            assert set(loops) == {"ledger", "witness"}
            assert all(each["busy"]["count"] > 0 for each in loops.values())
