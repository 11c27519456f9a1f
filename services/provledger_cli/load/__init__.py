"""An open-loop load generator: what `provledger load` runs.

    planning    what is to be, from the options
    schedule    what is sent when, fixed in advance by a seed; pure
    histogram   latencies in little memory, which add up over processes; pure
    worker      one client process: sends what is due, measures from when it was due
    sender      a request of each kind, and the connections
    fleet       the client processes, from their parent
    kept        what was acknowledged, in little memory; pure
    recall      whether the ledgers still say so
    run         the sweep: steps, what happens in the middle, memory
    judge       thresholds and baselines: does it hold; pure
    plot        the latency curve as SVG; pure

Open loop: a request is due at its time whether or not earlier ones were answered, and its latency
counts from then. A service that stalls for a second so shows a second in hundreds of requests, and
not in the one that happened to wait (Gil Tene's "coordinated omission").
"""
