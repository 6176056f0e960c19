"""A TCP line to PostgreSQL that can be cut at the worst moment: around a COMMIT.

Every connection to `port` is carried on to the server's. `at_commit` says, once, what becomes of the next COMMIT:

    before   the connection ends and the server never hears of it
    after    the server carries it out, and its answer is lost
    silence  the client's side ends, the server's stays open and hears nothing: a session that nobody knows to be dead

`cut` ends all connections and lets no new one in until `mend`.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from typing import Literal

Moment = Literal["before", "after", "silence"]


class CutLine:
    """Listens on loopback from the start on. `close` when done."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.at_commit: Moment | None = None
        self.lost = 0
        """COMMITs that met their moment."""
        self._is_cut = False
        self._deaf: socket.socket | None = None  # no answer reaches it any more
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        self._is_cut = True
        self._end_all()

    def mend(self) -> None:
        self._is_cut = False

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._end_all()
        for thread in self._threads:
            thread.join(10)

    def _end_all(self) -> None:
        for pair in self._pairs:
            for end in pair:
                _end(end)
        self._pairs.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            if self._is_cut:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self._target))
            self._pairs.append((client, server))
            for run in (self._asked, self._answered):
                thread = threading.Thread(target=run, args=(client, server), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _asked(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                moment = self.at_commit if b"COMMIT\0" in data else None
                if moment is None:
                    server.sendall(data)
                    continue
                self.at_commit = None
                self.lost += 1
                if moment == "silence":
                    client.shutdown(socket.SHUT_RDWR)
                    return
                if moment == "after":
                    self._deaf = client
                    server.sendall(data)
                    continue  # it answers when what follows COMMIT in the pipeline has come
                break
        _end(client)
        _end(server)

    def _answered(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while (data := server.recv(65536)) and client is not self._deaf:
                client.sendall(data)
        _end(client)
        _end(server)


def _end(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
    line.close()
