"""The commands `provledger` and `keys`.

    main, keys_main   wire the verbs; nothing else
    verbs/            one module for each verb: its options, its words, its exit code
    options           options that several verbs share, each with its environment twin
    output, failures  what goes to stdout and stderr, and how an error ends a command
    connect           from options to clients of the services
    demo              `make demo`

and behind the verbs, each floor on those below it only:

    backups/          `backup` and `restore`
    watching/         `monitor`
    load/             `load`
    transfer/         `import`, `export`, `refresh`
    verifying/        `verify`
    ceremonies/       `keys`
    tlog/             `log fsck`: a log's files and rows
    embedded/         `up`: the data directory, its services, their supervisor

Exit codes: 0 it holds, 1 it does not hold, 2 could not tell (usage errors, services unreachable).
Modules that import gRPC are imported by a verb when it runs: `verify FILE` needs none of them.
"""
