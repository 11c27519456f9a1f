"""What `make test` leaves out and `make test ARGS=--thorough` runs, as CI does.

Two cores take more than half of all the time for these files: most of it goes into starting
services, again and again. What they cover is covered in the rest as well, more coarsely: the way
of a receipt from end to end, commands and processes, kills and lost answers.
"""

from __future__ import annotations

from typing import Final

THOROUGH: Final = frozenset(
    {
        "e2e/test_anchor_outage.py",
        "e2e/test_backup.py",
        "e2e/test_bench.py",
        "e2e/test_chart_runs.py",
        "e2e/test_damaged_log.py",
        "e2e/test_exported_traces.py",
        "e2e/test_fips_up.py",
        "e2e/test_given_key.py",
        "e2e/test_import_pipes.py",
        "e2e/test_key_ceremonies.py",
        "e2e/test_key_registry_behind.py",
        "e2e/test_load.py",
        "e2e/test_log_fsck.py",
        "e2e/test_lost_key.py",
        "e2e/test_moved.py",
        "e2e/test_out.py",
        "e2e/test_refresh.py",
        "e2e/test_rotate_in_place.py",
        "e2e/test_tiles_elsewhere.py",
        "e2e/test_verify_large.py",
        "faults/test_backup.py",
        "faults/test_clock.py",
        "faults/test_clock_ahead.py",
        "faults/test_damaged_requests.py",
        "faults/test_disk.py",
        "faults/test_every_rpc.py",
        "faults/test_gateway.py",
        "faults/test_lost_answers.py",
        "faults/test_postgres.py",
        "faults/test_restored.py",
        "faults/test_sinks_asked.py",
        "faults/test_statements.py",
        "integration/test_anchor_faults.py",
        "integration/test_anchor_lost_logs.py",
        "integration/test_client_closing.py",
        "integration/test_client_stream_quota.py",
        "integration/test_fips.py",
        "integration/test_gateway_away.py",
        "integration/test_http_unread.py",
        "integration/test_ledger_replaced.py",
        "integration/test_load_clients.py",
        "integration/test_own_logs.py",
        "integration/test_recovery_key.py",
        "integration/test_rpc_connection_age.py",
        "integration/test_s3_bounds.py",
    }
)
