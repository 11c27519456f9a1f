"""A service that ends by itself is noticed by tests/faults, whoever asks first."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.cluster import Cluster, DiedError, NotServingError
from tests.faults.conftest import Attack
from tests.faults.test_killed import _struck

ENDS = "import sys; sys.exit(3)"
STAYS = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture
def attack(tmp_path: Path) -> Iterator[Attack]:
    """Of services that do not run."""
    attack = Attack(Cluster(tmp_path / "data"), tmp_path / "record", 7)
    yield attack
    attack.close()


def _run(attack: Attack, code: str, name: str = "keys") -> None:
    """Have something run as a service."""
    service = attack.cluster[name]
    service.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    service.pid = service.process.pid
    assert service.process.stdout is not None
    if code == STAYS:
        service.process.stdout.readline()
    else:
        service.process.wait(30.0)
    service.process.stdout.close()


BY_ITSELF = "keys ended by itself, with status 3"


def test_the_check_of_a_test_fails_for_a_service_that_has_ended(attack: Attack) -> None:
    _run(attack, STAYS, "ledger")
    _run(attack, ENDS)
    with pytest.raises(AssertionError, match=BY_ITSELF):
        attack.check()


def test_one_that_has_ended_is_neither_killed_nor_started_again(attack: Attack) -> None:
    cluster = attack.cluster
    for restart in (lambda: cluster.restart("keys"), cluster.start, lambda: cluster.spawn("keys")):
        _run(attack, ENDS)
        with pytest.raises(AssertionError, match=BY_ITSELF):
            restart()
    with pytest.raises(AssertionError, match=BY_ITSELF):
        cluster["keys"].kill()
    # Known from then on.
    cluster.check_none_ended()


def test_killed_by_the_test_is_not_by_itself(attack: Attack) -> None:
    _run(attack, STAYS)
    attack.cluster.check_none_ended()
    attack.cluster["keys"].kill()
    attack.cluster.check_none_ended()
    _run(attack, STAYS)
    assert attack.cluster["keys"].end() is None
    _run(attack, ENDS)
    assert attack.cluster["keys"].end() == 3
    assert attack.cluster["keys"].end() is None


def test_only_sigkill_is_death_at_a_point(attack: Attack) -> None:
    keys = attack.cluster["keys"]
    _run(attack, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert _struck(keys)
    _run(attack, STAYS)
    assert not _struck(keys)
    for code, status in ((ENDS, 3), ("import os; os.abort()", -signal.SIGABRT)):
        _run(attack, code)
        with pytest.raises(AssertionError, match=re.escape(f"keys: {status}")):
            _struck(keys)


def test_one_that_hangs_has_not_died(attack: Attack) -> None:
    _run(attack, STAYS)
    attack.cluster["keys"].pid = 0
    with pytest.raises(NotServingError) as caught:
        attack.cluster.wait_ready("keys", 0.05)
    assert not isinstance(caught.value, DiedError)
