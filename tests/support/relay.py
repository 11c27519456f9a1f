"""A relay in front of a server, so that a test can cut connections as a network does."""

from __future__ import annotations

import socket
import struct
import threading


class Relay:
    """Listens on a port of its own and passes every connection on to `target_port` of loopback."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Begin to accept connections."""
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections as a crash would: with RST, not FIN."""
        with self._lock:
            open_now, self._open = self._open, set()
        for connection in open_now:
            reset(connection)

    def close(self) -> None:
        """Accept no more, and cut what is open."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target_port))
            except OSError:
                return
            with self._lock:
                self._open |= {client, server}
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            reset(source)
            reset(sink)


def reset(connection: socket.socket) -> None:
    """Close with RST."""
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # Wakes a thread that is reading: close alone would leave it, and the connection, waiting.
        connection.shutdown(socket.SHUT_RD)
    except OSError:
        pass
    connection.close()
