"""`provledger down`: stop the services."""

from __future__ import annotations

import time

from provledger_cli import output
from provledger_cli.embedded.datadir import DataDir
from provledger_cli.options import DataDirOption, JSONOption


def down(data_dir: DataDirOption = None, as_json: JSONOption = False) -> None:
    """Stop the services of a data directory, letting them finish what is in flight.

    Nothing is removed. Stopping what does not run is no error.

    Example: provledger down --data-dir ./ledger
    """
    from provledger_cli.embedded import running

    output.use_json(as_json)
    directory = DataDir.at(data_dir)
    started_s = time.monotonic()
    ran = running.stop(directory)
    seconds = time.monotonic() - started_s
    if as_json:
        output.document({"data_dir": str(directory.path), "stopped": ran, "seconds": seconds})
    elif ran:
        output.show(f"stopped in {output.seconds(seconds)}")
    else:
        output.show(f"nothing runs in {output.literal(directory.path)}")
