"""The anchor service: logs of entries, their signed checkpoints, and the sinks these go to.

submission     what may join a log, and where: pure decisions about one ledger's entries
tree           the growing right edge of a log's Merkle tree: pure
checkpointing  what one flush adds to a log, and the states of a checkpoint: pure
tilestore      the C2SP tiles of a log on disk
storage/       everything else that is kept, on SQLite or PostgreSQL
logfile        creating a log, and rebuilding its edge at start-up
committer      the flush: admit, store, sign, tile, release
proofs         proofs and entries, read from tiles, checked before they are given away
publisher      what the outside sees: at most one checkpoint a second
relay, sinks/  how published checkpoints get out of the operator's reach
servicer       the RPCs; `convert` turns messages into values and back
service        all of it wired together; `__main__` runs it
"""
