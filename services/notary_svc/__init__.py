"""A cosigner for the logs of others (c2sp.org/tlog-witness, c2sp.org/tlog-cosignature).

It remembers, for each log it was told of, the largest tree it has cosigned, and cosigns only what
extends that tree: a log that shows different histories to different people cannot have both
cosigned here.

- `cosigning`: which checkpoint is cosigned, and every refusal; no I/O
- `signing`: the cosigner's own keys
- `memory`: whether a database is the memory of these keys; no I/O
- `storage`: what was cosigned last, by an atomic update
- `web`: two HTTP paths over these

It needs none of our other services, and they need not trust it: its keys are no log keys.
"""
