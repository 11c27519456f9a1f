"""The commands `provledger` and `keys`.

    main, keys_main   wire the verbs; nothing else
    verbs/            one module for each verb: its options, its words, its exit code
    options           options that several verbs share, each with its environment twin
    output, failures  what goes to stdout and stderr, and how an error ends a command
    datadir           where things lie in a data directory; endpoints, its file of addresses
    supervisor        keeps the services running; `bootstrap` makes their first keys
    connect           from options to clients of the services
    importing, exporting, checking   the work behind `import`, `export`, `verify`
    demo              `make demo`

Exit codes: 0 it holds, 1 it does not hold, 2 could not tell (usage errors, services unreachable).
Modules that import gRPC are imported by a verb when it runs: `verify FILE` needs none of them.
"""
