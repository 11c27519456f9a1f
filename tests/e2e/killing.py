"""Runs a command and kills something once it has got so far: `python -m tests.e2e.killing ...`.

    python -m tests.e2e.killing PID METHOD VERB [ARGUMENT ...]

After the first answer to the RPC METHOD, SIGKILL goes to PID; 0 stands for the command itself,
which then never sees what it has just caused. So every step of a ceremony can be hit, however fast
or slow the machine is. If METHOD is never called, the exit code is 97.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import Any

NOT_CALLED = 97


def main() -> None:
    pid, method = int(sys.argv[1]), sys.argv[2]
    sys.argv = ["provledger", *sys.argv[3:]]
    from provledger.client import calls
    from provledger_cli import connect
    from provledger_cli.embedded import bootstrap
    from provledger_cli.main import main as run

    done = False
    real = calls.unary

    async def unary(call: Callable[..., Awaitable[Any]], *arguments: Any, **more: Any) -> Any:
        nonlocal done
        answer = await real(call, *arguments, **more)
        name = bytes(call._method).decode()  # type: ignore[attr-defined]
        if not done and name.endswith(f"/{method}"):
            done = True
            os.kill(pid or os.getpid(), signal.SIGKILL)
        return answer

    # Whoever makes calls has taken it into its own names.
    for module in (connect, bootstrap):
        module.unary = unary  # type: ignore[attr-defined]
    try:
        run()
    finally:
        if not done:
            os._exit(NOT_CALLED)


if __name__ == "__main__":
    main()
