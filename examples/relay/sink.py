"""
A service that takes events and is sometimes not there: what the relay protects, and what its tests count at.

    python examples/relay/sink.py            # on port 8081; down for 20 seconds of each minute
"""

import json
import socket
import threading
import time
from collections import Counter, deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, cast

Mode = Literal["up", "down", "late", "lost", "picky"]
"""It answers; answers 503; takes an event and answers too late; takes it and never answers; refuses each event with 422."""


class Sink:
    """
    Args:
        port: 0 for a free one.
        late: Seconds before the answer, in the mode "late".

    Attributes:
        mode: What it does with each request.
        soon: What it does with the next requests, one each, before `mode` counts again.
        taken: How often it has taken each event, by id.
        unanswered: How often it has taken each event without an answer in time. Only these may come again.
        refused: How many requests it has answered with an error.
        bodies: The last body that it has taken, by id.
    """

    def __init__(self, port: int = 0, late: float = 3.0) -> None:
        self.mode: Mode = "up"
        self.soon: deque[Mode] = deque()
        self.late = late
        self.taken: Counter[str] = Counter()
        self.unanswered: Counter[str] = Counter()
        self.bodies: dict[str, Any] = {}
        self.refused = 0
        self.news = threading.Condition()  # one of the figures has changed
        # A bound socket that does not listen keeps the port while the server is gone: connections are refused, and nobody
        # else can have it.
        self._place = socket.socket()
        self._place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._place.bind(("127.0.0.1", port))
        self.port: int = self._place.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/events"
        self._server: _Server | None = None
        self.listen()

    def listen(self) -> None:
        """Accept connections."""
        self._server = _Server(("127.0.0.1", self.port), _Request)
        self._server.sink = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def hang_up(self) -> None:
        """Refuse connections, until `listen` is called again."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def close(self) -> None:
        self.hang_up()
        self._place.close()


class _Server(ThreadingHTTPServer):
    allow_reuse_port = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    sink: Sink


class _Request(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        sink = cast(_Server, self.server).sink
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        event = self.headers["Idempotency-Key"]
        with sink.news:
            mode = sink.soon.popleft() if sink.soon else sink.mode
            status = {"down": 503, "picky": 422}.get(mode, 200)
            if status == 200:
                sink.taken[event] += 1
                sink.bodies[event] = body
                sink.unanswered[event] += mode in ("late", "lost")
            else:
                sink.refused += 1
            sink.news.notify_all()
        if mode == "late":
            time.sleep(sink.late)
        if mode != "lost":
            try:
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()
            except ConnectionError:
                pass  # the client has not waited

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


if __name__ == "__main__":
    here = Sink(port=8081)
    try:
        while True:
            here.mode = "down" if time.time() % 60 < 20 else "up"
            print(f"{here.mode}: {len(here.taken)} events taken, {here.refused} requests refused", flush=True)
            time.sleep(5)
    except KeyboardInterrupt:
        here.close()
