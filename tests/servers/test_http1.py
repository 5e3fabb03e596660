"""The HTTP client against servers that answer byte for byte what the test says."""

import asyncio
import gzip
import ssl
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.config import Secret
from gateway.model.refusal import Code
from gateway.model.verdict import Failed
from gateway.servers.http1 import ConnectError, HttpClient, Origin, Url
from gateway.servers.streamable import fixed_headers
from gateway.servers.transport import StartError
from tests.scripted_server import Scripted, tool
from tests.servers.harness import http, pool, text

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops: their transports differ."""
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


class Taken:
    """One answer, remembered."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = b""
        self.ending = ""
        self.done = asyncio.Event()

    def head(self, status: int, headers: dict[str, str]) -> None:
        self.status, self.headers = status, headers

    def data(self, chunk: bytes) -> None:
        self.body += chunk

    def end(self) -> None:
        self.ending = "end"
        self.done.set()

    def lost(self, reason: str) -> None:
        self.ending = reason
        self.done.set()


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve) -> AsyncIterator[Origin]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield Origin("http", "127.0.0.1", server.sockets[0].getsockname()[1])


def answers(*parts: bytes, pause: float = 0.0) -> Serve:
    """Answers the first request with these bytes, and closes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)

    return serve


async def fetched(serve: Serve) -> Taken:
    client, taken = HttpClient(), Taken()
    async with serving(serve) as origin:
        connection = await client.connect(origin, 5)
        connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", taken)
        with anyio.fail_after(10):
            await taken.done.wait()
    client.close()
    return taken


@pytest.mark.rule("servers.http-client")
@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", b"hello"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\ntrailer: 1\r\n\r\n", b"hello"),
        (b"HTTP/1.1 200 OK\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(gzip.compress(b"zip" * 100_000)), gzip.compress(b"zip" * 100_000)), b"zip" * 100_000),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: deflate\r\ncontent-length: %d\r\n\r\n%b" % (len(zlib.compress(b"z")), zlib.compress(b"z")), b"z"),
    ],
    ids=["length", "chunked", "until-close", "http-1.0", "no-content", "informational", "gzip", "deflate"],
)  # fmt: skip
async def test_answers_of_every_framing_are_read(raw: bytes, body: bytes) -> None:
    for parts in ([raw], [raw[at : at + 1] for at in range(min(len(raw), 400))] + [raw[400:]]):
        taken = await fetched(answers(*parts))
        assert (taken.ending, taken.body) == ("end", body)


@pytest.mark.rule("servers.http-client")
@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nshort", "closed"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel", "closed"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n", "headers are larger"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: br\r\ncontent-length: 1\r\n\r\nx", "'br'"),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\nnope", "compression"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!", "not HTTP"),
        (b"", "closed"),
    ],
)
async def test_answers_that_cannot_be_read_are_lost_with_a_reason(raw: bytes, says: str) -> None:
    taken = await fetched(answers(raw))
    assert says in taken.ending


@pytest.mark.rule("servers.http-client")
async def test_connections_are_kept_and_taken_newest_first_and_only_as_old_as_asked() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    client = HttpClient()
    async with serving(serve) as origin:
        for _ in range(5):
            taken = Taken()
            connection = client.take(origin, 2.0) or await client.connect(origin, 5)
            connection.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", taken)
            await taken.done.wait()
        assert connections == 1
        assert client.take(origin, -1.0) is None, "idle for longer than asked"
        kept = client.take(origin, 2.0)
        assert kept is not None
        assert client.take(origin, 2.0) is None, "one user at a time"
        kept.close()
    client.close()


@pytest.mark.rule("servers.http-client")
async def test_a_connection_that_the_server_closed_or_wrote_on_unasked_is_not_taken() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
        await writer.drain()
        await asyncio.sleep(0.05)
        if b"/talk" in first:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
            await asyncio.sleep(1)

    client = HttpClient()
    async with serving(serve) as origin:
        for path in (b"/close", b"/talk"):
            taken = Taken()
            connection = await client.connect(origin, 5)
            connection.send(b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n" % path, taken)
            await taken.done.wait()
            assert connection.usable
            async with asyncio.timeout(5):
                while connection.usable:  # noqa: ASYNC110 - it is the peer's doing
                    await asyncio.sleep(0.01)
            assert client.take(origin, 30.0) is None
            assert taken.body == b"ok"
    client.close()


@pytest.mark.rule("servers.http-client")
@pytest.mark.parametrize(
    ("host", "says"), [("127.0.0.1", "(?i)refused"), ("no-such-host.invalid", "no-such-host.invalid")]
)
async def test_a_connection_that_cannot_be_made_says_why(host: str, says: str) -> None:
    with pytest.raises(ConnectError, match=says):
        await HttpClient().connect(Origin("http", host, 9), 5)


@pytest.mark.rule("servers.http-client")
@pytest.mark.parametrize(
    "url",
    ["ftp://x/", "//x/", "http://", "http://x/\r\nevil: 1", "http://x/a b", "http://x/ü", "javascript:alert(1)", ""],
)
def test_urls_that_are_not_http_are_refused(url: str) -> None:
    with pytest.raises(ValueError):
        Url.parse(url)


@pytest.mark.rule("servers.http-client")
@pytest.mark.parametrize(
    ("url", "authority", "target"),
    [
        ("http://a", "a", "/"),
        ("https://a:443/x?y=1#z", "a", "/x?y=1"),
        ("http://[::1]:8080/mcp", "[::1]:8080", "/mcp"),
        ("http://user:pw@h:81/", "h:81", "/"),
    ],
)
def test_urls_are_split(url: str, authority: str, target: str) -> None:
    parsed = Url.parse(url)
    assert (parsed.origin.authority, parsed.target) == (authority, target)


@pytest.mark.rule("servers.secrets-in-headers")
def test_configured_headers_are_sent_and_the_gateways_own_cannot_be_overridden() -> None:
    settings = http(
        "s",
        "http://u:p@h/mcp",
        headers={
            "X-Key": Secret("v"),
            "Host": Secret("evil"),
            "Content-Length": Secret("0"),
            "Mcp-Method": Secret("x"),
        },
    )
    lines = fixed_headers(settings, Url.parse("http://u:p@h/mcp")).decode().split("\r\n")
    assert "X-Key: v" in lines
    assert "authorization: Basic dTpw" in lines
    assert not [line for line in lines if "evil" in line or line.lower().startswith(("content-length", "mcp-method"))]


@pytest.mark.rule("servers.secrets-in-headers")
@pytest.mark.parametrize("headers", [{"X-A": "a\r\nX-B: b"}, {"X A": "a"}, {"X-A": "€"}, {"X:": "a"}])
def test_headers_that_http_cannot_carry_are_refused_without_showing_their_value(headers: dict[str, str]) -> None:
    settings = http("s", "http://h/", headers={name: Secret(value) for name, value in headers.items()})
    with pytest.raises(StartError) as refused:
        fixed_headers(settings, Url.parse("http://h/"))
    assert "X-B" not in str(refused.value)


def certificate(directory: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1, signed by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = directory / "cert.pem", directory / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@asynccontextmanager
async def tls_front(backend: str, directory: Path) -> AsyncIterator[tuple[str, Path]]:
    """TLS in front of a server's port; its URL and the certificate to trust."""
    cert_file, key_file = certificate(directory)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    port = int(backend.split(":")[2].split("/")[0])

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except (ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        back_reader, back_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pipe(reader, back_writer), pipe(back_reader, writer))

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/mcp", cert_file


@pytest.mark.rule("servers.tls")
async def test_tls_is_spoken_and_an_untrusted_certificate_refused_before_anything_is_sent(tmp_path: Path) -> None:
    server = Scripted(tmp_path, {"tools": [tool("t")]})
    async with server.http() as plain, tls_front(plain, tmp_path) as (url, cert_file):
        trusting = ssl.create_default_context(cafile=str(cert_file))
        async with pool(http("s", url), ssl_context=trusting) as running:
            await running.available("s")
            assert text(await running.call("s", "t", {"tls": 1})) == '{"tls": 1}'
            entry = running.entry("s", "t")
        received = len(server.received())
        async with pool(http("s", url)) as running:
            await running.until(lambda: "TLS" in running.servers.catalogues()["s"].reason)
            outcome = await running.call("s", "t", {}, entry=entry)
            assert isinstance(outcome, Failed)
            assert (outcome.code, outcome.in_doubt) == (Code.SERVER_UNAVAILABLE, False)
        assert len(server.received()) == received
