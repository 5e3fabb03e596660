"""What the tests with real servers and clients share: something to work on, and one gateway in front of all of them."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway_process import GatewayProcess, configure, serve, stdio_server
from tests.real.servers import SERVERS, Workplace

_PAGE = b"<html><head><title>t</title></head><body><p>This is a page for the gateway, long enough to be kept.</p></body></html>"


class _Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.send_header("content-length", str(len(_PAGE)))
        self.end_headers()
        self.wfile.write(_PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


@pytest.fixture(scope="session")
def page() -> Iterator[str]:
    """The URL of a page on the loopback interface."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/page.html"
        server.shutdown()
        thread.join(10)


@pytest.fixture
def workplace(tmp_path: Path, page: str) -> Workplace:
    """A repository, a directory of files and a page."""
    place = Workplace(tmp_path / "workplace", page)
    place.prepare()
    return place


def servers_toml(place: Workplace, *names: str) -> str:
    """The ``[servers.*]`` tables of these servers; skips the test if one of them is not installed."""
    tables = []
    for name in names:
        command, args = SERVERS[name].launch(place)
        # Each run of the memory server has a memory of its own.
        env = {"env": {"MEMORY_FILE_PATH": str(place.directory / "memory.jsonl")}} if name == "memory" else {}
        tables.append(stdio_server(name, command, args, **env))
    return "\n".join(tables)


@pytest.fixture(scope="module")
def shared_workplace(tmp_path_factory: pytest.TempPathFactory, page: str) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("shared") / "workplace", page)
    place.prepare()
    return place


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, shared_workplace: Workplace) -> Iterator[GatewayProcess]:
    """One gateway over HTTP with all real servers, of both eras, in one catalogue."""
    config = configure(tmp_path_factory.mktemp("gateway"), servers_toml(shared_workplace, *SERVERS))
    with serve(config) as running:
        yield running
