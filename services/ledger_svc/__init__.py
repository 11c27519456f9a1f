"""The ledger service: one hash chain of receipts for each ledger.

    chain       what a stored receipt is, and how it is linked (pure)
    admission   bounds of a draft, before anything is spent on it (pure)
    repeats     whether a repeated request id came with the same content (pure)
    batch_tree  what is kept of a signed batch, to rebuild paths from (pure)
    audit       recomputes stored rows, every column of them (pure)
    witnessing  the call to the witness, and what is believed of its answer
    append      the pipeline of an append: look up, witness, commit, answer
    commit      its commit: what is decided under the head's lock
    outcomes    what becomes of a draft, and what a repeat is answered
    answers     outcomes as results of RPCs
    genesis     makes ledgers
    guard       asks the log what it holds of a ledger before the first append
    census      counts the ledgers before one is said not to exist
    directory   ledgers by name
    relay       brings entries to the log, behind the appends
    progress    how far receipts have got, for those who wait
    reads       receipts with signatures and proofs, lists, heads
    listing     pages of receipts and ledgers;  paging  their tokens
    storage     the database: a Protocol and its implementation in SQLAlchemy Core
    convert     to and from protobuf;  servicer, stream  the RPCs;  app  puts it all together

Trusted with the chains, the payloads and the salts. It holds no key: whoever steals its database
reads payloads, whoever forges it is found by the witness's signatures and the log.
"""
