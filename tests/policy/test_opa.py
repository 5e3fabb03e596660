"""What an OPA server may do wrong, or its client by default, and what becomes of it."""

import io
import json
import tarfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest

from gateway.adapters.policy_opa import IN_FLIGHT, opa_policy
from gateway.config import PolicySettings, load
from gateway.model.errors import (
    ConfigurationError,
    PolicyEvaluationError,
    PolicyLoadError,
    PolicyTimeout,
    PolicyUnavailable,
)
from gateway.ports import UNDEFINED
from tests.policy.opa_server import opa_server
from tests.policy.test_engines import BASE, asking, files_of

pytestmark = pytest.mark.anyio

Handle = Callable[[bytes, anyio.abc.SocketStream], Awaitable[None]]


async def read_request(stream: anyio.abc.SocketStream) -> bytes:
    """One HTTP request with its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += await stream.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
    )
    while len(body) < length:
        body += await stream.receive()
    return data


@asynccontextmanager
async def http_server(handle: Handle) -> AsyncIterator[str]:
    """A server that hands each request and its connection to `handle`."""

    async def serve(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            try:
                while True:
                    await handle(await read_request(stream), stream)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(listener.serve, serve)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
        yield f"http://127.0.0.1:{port}"
        group.cancel_scope.cancel()


def answering(status: str, body: str, *headers: str, kind: str = "application/json") -> Handle:
    """Always the same answer."""

    async def handle(_: bytes, stream: anyio.abc.SocketStream) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers, "", body]
        await stream.send("\r\n".join(lines).encode())

    return handle


@pytest.mark.rule("policy.opa-unavailable")
@pytest.mark.parametrize(
    "handle",
    [
        answering("200 OK", "<html>", kind="text/html"),
        answering("200 OK", "not json"),
        answering("200 OK", "[]"),
        answering("503 Service Unavailable", "{}"),
        answering("401 Unauthorized", '{"code": "unauthorized", "message": "no"}'),
        answering("404 Not Found", "{}"),
        answering("307 Temporary Redirect", "", "Location: http://127.0.0.1:1/v1/data/gateway/decision"),
    ],
)
async def test_an_answer_that_is_not_opas_makes_the_policy_unavailable(handle: Handle) -> None:
    async with http_server(handle) as url, opa_policy(url) as engine:
        with pytest.raises(PolicyUnavailable):
            await engine.decide(asking(), timeout_seconds=5)
        with pytest.raises(PolicyUnavailable):
            await engine.visible([asking()])


async def test_a_500_is_the_policys_error_and_is_asked_once() -> None:
    asked = 0
    refuse = answering("500 Internal Server Error", '{"code": "internal_error", "message": "eval_conflict_error"}')

    async def handle(request: bytes, stream: anyio.abc.SocketStream) -> None:
        nonlocal asked
        asked += b"/v1/data/" in request
        await refuse(request, stream)

    async with http_server(handle) as url, opa_policy(url) as engine:
        with pytest.raises(PolicyEvaluationError, match="eval_conflict_error"):
            await engine.decide(asking(), timeout_seconds=5)
    assert asked == 1


@pytest.mark.rule("policy.opa-unavailable")
async def test_a_server_that_is_not_there_is_unavailable_at_once() -> None:
    async with opa_policy("http://127.0.0.1:1") as engine:
        began = time.monotonic()
        with pytest.raises(PolicyUnavailable):
            await engine.decide(asking(), timeout_seconds=5)
        assert time.monotonic() - began < 2.5


@pytest.mark.rule("policy.deadline")
async def test_a_server_that_never_answers_meets_our_deadline() -> None:
    async def hang(_: bytes, __: anyio.abc.SocketStream) -> None:
        await anyio.sleep_forever()

    async with http_server(hang) as url, opa_policy(url, timeout_seconds=0.1) as engine:
        began = time.monotonic()
        with pytest.raises(PolicyTimeout):
            await engine.decide(asking(), timeout_seconds=0.1)
        assert time.monotonic() - began < 1


@pytest.mark.rule("policy.opa-in-flight")
async def test_at_most_sixteen_questions_are_in_flight_and_waiting_counts_as_time() -> None:
    now, most = 0, 0
    full, release = anyio.Event(), anyio.Event()

    async def slow(_: bytes, stream: anyio.abc.SocketStream) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        if now == IN_FLIGHT:
            full.set()
        await release.wait()
        now -= 1
        await answering("200 OK", '{"result": true}')(b"", stream)

    async with http_server(slow) as url, opa_policy(url, timeout_seconds=0.05) as engine:
        late = 0
        answers: list[object] = []

        async def ask(timeout_seconds: float) -> None:
            nonlocal late
            try:
                answers.append(await engine.decide(asking(), timeout_seconds=timeout_seconds))
            except PolicyTimeout:
                late += 1

        now = most = 0
        async with anyio.create_task_group() as group:
            for _ in range(IN_FLIGHT):
                group.start_soon(ask, 20.0)
            await full.wait()
            for _ in range(8):
                await ask(0.02)
            release.set()
        assert (most, late, answers) == (IN_FLIGHT, 8, [True] * IN_FLIGHT)


@pytest.mark.rule("policy.engines")
async def test_undefined_is_no_empty_object() -> None:
    async with http_server(answering("200 OK", '{"warning": {}}')) as url, opa_policy(url) as engine:
        assert await engine.decide(asking(), timeout_seconds=5) is UNDEFINED
    async with http_server(answering("200 OK", '{"result": {}}')) as url, opa_policy(url) as engine:
        assert await engine.decide(asking(), timeout_seconds=5) == {}


@pytest.mark.parametrize("url", ["http://", "ftp://opa:8181", "http://opa:8181/base/path", "opa:8181"])
async def test_a_url_that_is_no_servers_is_refused(url: str) -> None:
    with pytest.raises(PolicyLoadError):
        async with opa_policy(url):
            raise AssertionError


async def test_a_token_goes_into_the_header_and_is_shown_nowhere() -> None:
    seen: list[bytes] = []

    async def handle(request: bytes, stream: anyio.abc.SocketStream) -> None:
        seen.append(request)
        await answering("503 Service Unavailable", "{}")(request, stream)

    async with http_server(handle) as url, opa_policy(url.replace("//", "//s3cret@")) as engine:
        with pytest.raises(PolicyUnavailable) as caught:
            await engine.decide(asking(), timeout_seconds=5)
    assert b"Authorization: Bearer s3cret" in seen[-1]
    assert "s3cret" not in str(caught.value)


# --- a real OPA ---


def bundle(path: Path, revision: str, module: str) -> Path:
    """A bundle with one module."""
    manifest = json.dumps({"revision": revision, "roots": ["gateway"]})
    with tarfile.open(path, "w:gz") as archive:
        for name, text in (("/gateway.rego", module), ("/.manifest", manifest)):
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.mark.rule("policy.opa-revision")
async def test_the_revision_is_the_bundles(tmp_path: Path) -> None:
    path = bundle(tmp_path / "policies.tar.gz", "v42", "package gateway\ndecision := true\n")
    with opa_server("--bundle", str(path)) as url:
        async with opa_policy(url) as engine:
            assert await engine.decide(asking(), timeout_seconds=5) is True
            assert engine.revision.endswith("@v42")


@pytest.mark.rule("policy.opa-push")
async def test_pushing_replaces_what_was_pushed_and_nothing_else() -> None:
    helper = "package gateway\nallow if helped(input.arguments.x)\n"
    helped = "package gateway\nhelped(x) if x == data.limits.x\n"
    with opa_server() as url:
        first = files_of({"gateway.rego": BASE, "a.rego": helper, "z.rego": helped}, {"limits": {"x": 1}})
        async with opa_policy(url, push=first) as engine:
            assert engine.revision == first.revision
            assert (await engine.decide(asking(x=1), timeout_seconds=5))["allow"] is True
        second = files_of({"renamed.rego": BASE}, {"limits": {"x": 2}})
        async with opa_policy(url, push=second) as engine:
            assert (await engine.decide(asking(x=2), timeout_seconds=5))["allow"] is False


@pytest.mark.rule("policy.opa-push")
async def test_a_policy_that_opa_does_not_take_is_not_rewritten() -> None:
    old = files_of({"gateway.rego": "package gateway\ndefault decision = false\ndecision { input.x == 1 }\n"})
    with opa_server() as url:
        with pytest.raises(PolicyLoadError, match=r"gateway\.rego"):
            async with opa_policy(url, push=old):
                raise AssertionError
        async with opa_policy(url) as engine:
            assert await engine.decide(asking(), timeout_seconds=5) is UNDEFINED


@pytest.mark.rule("policy.opa-push")
async def test_what_was_pushed_stays_where_opa_refuses_the_new() -> None:
    good = files_of({"gateway.rego": BASE + "allow if input.arguments.x == 1\n", "more.rego": "package gateway\n"})
    bad = files_of({"gateway.rego": BASE, "more.rego": "package gateway\nallow if typo\n"})
    with opa_server() as url:
        async with opa_policy(url, push=good) as engine:
            with pytest.raises(PolicyLoadError, match=r"more\.rego"):
                async with opa_policy(url, push=bad):
                    raise AssertionError
            assert (await engine.decide(asking(x=1), timeout_seconds=5))["allow"] is True


@pytest.mark.rule("policy.opa-push")
def test_policies_are_pushed_only_where_the_url_asks_for_it(tmp_path: Path) -> None:
    def settings(engine: str) -> PolicySettings:
        (tmp_path / "servers.toml").write_text(f'[policy]\nengine = "{engine}"\n')
        return load(tmp_path / "servers.toml").policy

    with pytest.raises(ConfigurationError, match="no 'policies' to push"):
        settings("opa+http://127.0.0.1:8181?push=policies")
    (tmp_path / "policies").mkdir()
    assert settings("opa+http://127.0.0.1:8181?push=policies").path == tmp_path / "policies"
    assert settings("opa+http://127.0.0.1:8181").path is None
