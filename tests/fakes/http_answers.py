"""A web server on this machine that gives each path its prepared answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Answers:
    """What is asked, and where.

    Attributes:
        base_url: ends in `/v1`.
        asked: method, path with query, and headers of each request.
    """

    base_url: str
    asked: list[tuple[str, str, Mapping[str, str]]] = field(default_factory=list)


@contextmanager
def answering(answers: Mapping[str, Any], *, otherwise: Any = None) -> Iterator[Answers]:
    """Serve, while the block is open.

    Args:
        answers: by path below `/v1`, without the query: text for a page of HTML, a status, or a value to send as JSON.
        otherwise: for any other path; by default the status 404.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.asked.append((self.command, self.path, dict(self.headers)))
            answer = answers.get(self.path.partition("?")[0].removeprefix("/v1"), otherwise)
            status = answer if isinstance(answer, int) else 404 if answer is None else 200
            body = answer if isinstance(answer, str) else json.dumps(answer)
            self.send_response(status)
            self.send_header("content-type", "text/html" if isinstance(answer, str) else "application/json")
            self.send_header("content-length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        do_CONNECT = do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        told = Answers(f"http://127.0.0.1:{server.server_port}/v1")
        Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield told
        server.shutdown()
