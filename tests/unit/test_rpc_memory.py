"""What a service asks of Python's collector and of the C library is what they do."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

# In a process of its own: the settings are the process's.
_SETTLED = """
import gc, resource
from provledger.rpc import memory
memory.settle()
assert gc.get_threshold() == (20_000, 20, 50), gc.get_threshold()
assert gc.get_freeze_count() > 1000
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    pieces = [bytearray(b"x") * (16 << 20) for _ in range(3)]
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_memory_that_comes_and_goes_is_not_asked_for_again() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("not glibc")
    command = [sys.executable, "-c", _SETTLED]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "not_kept" not in done.stderr
    # The first time takes a fault for each of 3 times 4,096 pages, and the other nine none.
    assert int(done.stdout) < 2 * 3 * 4096
