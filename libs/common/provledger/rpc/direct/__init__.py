"""gRPC's core, served by our event loop without grpc.aio between them.

grpc.aio hands each event of its core to the loop through a socket, one turn of the loop for each,
and a call has four of them: some 250 us of processor time for a call that does nothing, where the
core needs a tenth. Here the loop takes the events itself, as many as there are (ADR 0047).

`events` empties the core's queue, `call` is one RPC as its servicer sees it, `server` takes calls.
"""
