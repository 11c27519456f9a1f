"""The anchor service: logs of entries, their signed checkpoints, and the sinks these go to.

Pure, in the order in which an entry meets them:

    submission     what may join a log, and where
    tree           the growing right edge of a log's Merkle tree, in tiles
    checkpointing  what one flush adds to a log, and the states of its heads

With disk and database:

    storage/       everything kept in a database, on SQLite or PostgreSQL (`migrations/`)
    tilestore      the C2SP tiles of a log, in a directory (`tilefiles`; `files` writes so that it
                   lasts) or a bucket (`bucketfiles`); `pieces` gives published ones away
    proofs         proofs and entries, read from tiles, checked before they leave
    admission      what a submission needs looked up; `recovery` what a log needs at start-up
    committer      the flush: admit, store, sign, tile, release
    publisher      what the outside sees: at most one checkpoint in an interval
    relay, sinks/  how published checkpoints get out of the operator's reach
    reader         proofs, checkpoints and heads for whoever asks
    state          where a log stands, for those who wait for it to move on
    quorum         what makes a checkpoint anchored; `policies` keeps what was set while running
    anchored       finds that out from the evidence that sinks bring; `overdue`
                   whether it happens in time
    openlog        all of that for one log; `openlogs` for all logs of the process

And around it `config`, `convert`, `paging`, `servicer`, `keys`, `app`, `__main__`.
"""
