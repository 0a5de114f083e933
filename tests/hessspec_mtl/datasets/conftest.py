"""Folders that belong to one test, a server on this machine, and a few crystals."""

import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hessspec_mtl.datasets import sources

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, and no folder of data."""
    folder = tmp_path / "cache"
    monkeypatch.setenv(sources.CACHE_VARIABLE, str(folder))
    monkeypatch.delenv(sources.DATA_VARIABLE, raising=False)
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real files."""
    folder = os.environ.get(sources.DATA_VARIABLE)
    if not folder:
        pytest.skip(f"needs the real files: set {sources.DATA_VARIABLE} to the folder with them")
    return Path(folder).resolve()


@dataclass
class Server:
    """A server on the loopback interface: what it sends for each path, and what it was asked."""

    address: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str) -> str:
        return f"{self.address}{path}"

    def send(self, path: str, body: bytes, status: int = 200, kind: str = "text/plain") -> None:
        """Answer `path` with `body`."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(status)
            handler.send_header("Content-Type", kind)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)

        self.answers[path] = answer

    def break_off(self, path: str, body: bytes, after: int) -> None:
        """Announce all of `body`, send the first `after` bytes and hang up."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[:after])
            handler.close_connection = True

        self.answers[path] = answer

    def stall(self, path: str, body: bytes, after: int) -> threading.Event:
        """Send the first `after` bytes and then no more; returns what is set when that is so."""
        stalled = threading.Event()

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body[:after])
            handler.wfile.flush()
            stalled.set()
            self.over.wait(timeout=30)
            handler.close_connection = True

        self.answers[path] = answer
        return stalled


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            running.requests.append(self.path)
            answer = running.answers.get(self.path.split("?")[0])
            if answer is None:
                self.send_error(404)
            else:
                answer(self)

        def log_message(self, *_: object) -> None:
            """Keep standard error clean."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    running = Server(f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield running
    running.over.set()
    http.shutdown()
    http.server_close()
    thread.join()
