"""A connection to a server that breaks at the worst moment."""

from __future__ import annotations

import contextlib
import socket
import threading
from urllib.parse import urlsplit


#: A Bolt COMMIT message: chunk of two bytes, structure without fields, signature 0x12, end of message.
COMMIT = b"\x00\x02\xb0\x12\x00\x00"


class Proxy:
    """Hands bytes on until the client sends *fatal*: then the server gets it, and the client never gets the answer.

    The connection ends when the server answers; with *silent* not before the server ends it.
    """

    def __init__(self, uri: str, *, silent: bool = False) -> None:
        self._silent = silent
        split = urlsplit(uri)
        self._server = (split.hostname, split.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self.fatal: bytes | None = None
        self.struck = threading.Event()  # set before the server gets what was fatal
        self.refuse = False
        self.broken = 0
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"bolt://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._listener.close()
        for one in self._sockets:
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = None if self.refuse else self._connect()
                if server is None:
                    client.close()
                    continue
                self._sockets += [client, server]
                doomed = threading.Event()
                for source, sink, watched in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pump, args=(source, sink, doomed, watched), daemon=True).start()

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection(self._server)
        except ConnectionError:
            return None

    def _pump(self, source: socket.socket, sink: socket.socket, doomed: threading.Event, watched: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if watched and self.fatal is not None and self.fatal in data:
                    self.fatal = None
                    self.broken += 1
                    doomed.set()
                    self.struck.set()
                elif not watched and doomed.is_set():
                    if self._silent:
                        continue
                    break  # the server has done it and says so, to nobody
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
