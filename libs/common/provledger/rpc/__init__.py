"""gRPC plumbing shared by the services and the client.

    errors        exceptions to and from AIP-193 rich statuses
    auth          who is calling
    interceptors  authentication, allow-lists, deadlines and error mapping, once for all RPCs
    tls           credentials from files
    settings      what every service can be configured with
    listener      the server object: bind, register, health
    direct        the server over gRPC's core, without grpc.aio
    server        bootstrap of a process: readiness, signals, lifeline, graceful drain
    channel       client channels, and calls with a deadline and bounded retries

Nothing is imported here, so that a module that needs one part does not load the others.
"""
