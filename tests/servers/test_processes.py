"""Children: what they inherit, what they say, and that they end with their link, on every path."""

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from gateway.config import Secret
from tests.scripted_server import Scripted, tool
from tests.servers.harness import eventually, pool, scripted, stdio, text

pytestmark = [pytest.mark.anyio, pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX's")]


@pytest.fixture(params=[False, True], ids=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, bool]]:
    """Both event loops: their transports differ."""
    if request.param:
        pytest.importorskip("uvloop")
    return "asyncio", {"use_uvloop": request.param}


ROOT = Path(__file__).parents[2]

TINY = textwrap.dedent(
    """
    import json, os, sys
    for line in sys.stdin:
        m = json.loads(line)
        if m.get("method") == "server/discover":
            r = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "resultType": "complete"}
        elif m.get("method") == "tools/list":
            r = {"tools": [{"name": "t", "inputSchema": {"type": "object"}}]}
        elif m.get("method") == "tools/call":
            if "kill" in m["params"].get("arguments", {}): os.kill(os.getpid(), 9)
            r = {"content": [{"type": "text", "text": str(os.getpid())}]}
        else:
            continue
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", "id": m["id"], "result": r}) + "\\n")
        sys.stdout.flush()
    """
)
"""A server that starts fast."""


def alive(pid: int) -> bool:
    """Is there a process of this id that is no zombie?"""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        try:
            os.kill(pid, 0)
        except OSError:
            return False
        return not Path("/proc").is_dir()
    return state != "Z"


async def gone(*pids: int, timeout_seconds: float = 10.0) -> None:
    await eventually(lambda: not any(alive(pid) for pid in pids), timeout_seconds)


def children(parent: int) -> set[int]:
    """Every process whose parent this is."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.add(int(stat.parent.name))
    return found


@pytest.mark.rule("servers.child-environment")
async def test_a_child_gets_an_allow_list_and_what_is_configured_never_the_gateways_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "canary")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    monkeypatch.setenv("HTTP_PROXY", "http://canary")
    monkeypatch.setenv("PYTHONPATH", "/canary")
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    show = tmp_path / "show.py"
    show.write_text("import json, os, sys\nopen(sys.argv[1], 'w').write(json.dumps(dict(os.environ)))\n")
    out = tmp_path / "environment.json"
    env = {"GIT_TOKEN": Secret("configured"), "HOME": Secret("/elsewhere")}
    async with pool(stdio("s", sys.executable, [str(show), str(out)], env=env)) as running:
        await running.until(lambda: running.servers.states()[0].state == "unavailable")
    found = json.loads(out.read_text())
    assert "canary" not in json.dumps(found)
    assert found["GIT_TOKEN"] == "configured"
    assert found["HOME"] == "/elsewhere"
    assert found["LC_ALL"] == "C.UTF-8"
    assert Path(sys.executable).parent.as_posix() in found["PATH"]
    allowed = {"PATH", "HOME", "GIT_TOKEN", "LANG", "LANGUAGE", "LOGNAME", "SHELL", "TERM", "TMPDIR", "TZ", "USER"}
    assert {name for name in found if not name.startswith("LC_")} <= allowed


@pytest.mark.rule("servers.stderr-in-log")
async def test_standard_error_goes_line_by_line_into_the_log_with_the_servers_name_and_bounded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    noise = "first line\n" + "x" * 100_000 + "\n" + "again\n" * 2000
    script = {"tools": [tool("t")], "on": {"tools/call:t": [{"stderr": noise}, {"text": "ok"}]}}
    with caplog.at_level(logging.INFO, logger="gateway.servers.stderr"):
        async with scripted("stdio-modern", tmp_path, script) as (_, settings), pool(settings) as running:
            await running.available("s")
            await running.call("s", "t", {})
    lines = [record.getMessage() for record in caplog.records if record.name == "gateway.servers.stderr"]
    assert "s: first line" in lines
    assert max(map(len, lines)) < 10_000
    assert 10 < len(lines) < 400


@pytest.mark.rule("servers.children-reaped")
async def test_children_and_grandchildren_end_with_the_pool_even_if_they_ignore_every_polite_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.servers.stdio.EXIT_ON_EOF_SECONDS", 0.1)
    monkeypatch.setattr("gateway.servers.stdio.EXIT_ON_TERM_SECONDS", 0.3)
    stubborn = tmp_path / "stubborn.py"
    stubborn.write_text(
        textwrap.dedent(
            """
            import os, signal, subprocess, sys, time
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            child = subprocess.Popen([sys.executable, "-c", "import signal,time; signal.signal(15, signal.SIG_IGN); time.sleep(1000)"])
            time.sleep(0.2)
            open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
            time.sleep(1000)
            """
        )
    )
    noted = tmp_path / "pids"
    async with pool(stdio("s", sys.executable, [str(stubborn), str(noted)])):
        await eventually(lambda: noted.exists() and bool(noted.read_text()))
        pids = [int(pid) for pid in noted.read_text().split()]
        assert all(alive(pid) for pid in pids)
    await gone(*pids, timeout_seconds=0.5)


@pytest.mark.rule("servers.children-reaped")
async def test_grandchildren_of_a_child_that_exits_by_itself_end_too(tmp_path: Path) -> None:
    leaving = tmp_path / "leaving.py"
    leaving.write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'], stdin=-3, stdout=-3, stderr=-3)\n"
        "open(sys.argv[1], 'w').write(str(child.pid))\n"
    )
    noted = tmp_path / "pid"
    async with pool(stdio("s", sys.executable, [str(leaving), str(noted)])) as running:
        await running.until(lambda: "exited" in running.servers.catalogues()["s"].reason)
        await gone(int(noted.read_text()))


@pytest.mark.rule("servers.children-own-group")
async def test_a_child_has_a_session_and_group_of_its_own(tmp_path: Path) -> None:
    async with scripted("stdio-modern", tmp_path, {"tools": [tool("t")]}) as (server, settings), pool(settings) as it:
        await it.available("s")
        pid = server.entries("started")[0]["pid"]
        assert os.getpgid(pid) == pid != os.getpgid(0)
        assert os.getsid(pid) == pid
        assert it.servers.states()[0].links[0].pid == pid


GATEWAY = textwrap.dedent(
    """
    import asyncio, json, sys
    from tests.servers.harness import pool, stdio

    async def main():
        async with pool(*(stdio(name, sys.executable, args) for name, args in json.loads(sys.argv[1]).items())) as running:
            print("up", flush=True)
            await asyncio.get_running_loop().create_future()

    asyncio.run(main())
    """
)


@pytest.mark.rule("servers.gateway-killed")
async def test_when_the_gateway_is_killed_its_children_and_theirs_end(tmp_path: Path) -> None:
    """One that ignores the end of its input, with a child of its own that does as well; and one that notices by itself."""
    deaf = tmp_path / "deaf.py"
    deaf.write_text(
        textwrap.dedent(
            """
            import os, subprocess, sys, time
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
            open(sys.argv[1] + ".tmp", "w").write(f"{os.getpid()} {child.pid}")
            os.rename(sys.argv[1] + ".tmp", sys.argv[1])
            time.sleep(1000)
            """
        )
    )
    noted = tmp_path / "pids"
    polite = Scripted(tmp_path, {"tools": [tool("t")]})
    servers = {"deaf": [str(deaf), str(noted)], "polite": polite.args}
    gateway = await asyncio.create_subprocess_exec(
        sys.executable, "-c", GATEWAY, json.dumps(servers), cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        await eventually(noted.exists)
        await polite.wait_for("received", method="tools/list")
        pids = [*map(int, noted.read_text().split()), polite.entries("started")[0]["pid"]]
        watchdog = [pid for pid in children(gateway.pid) if pid not in pids]
        assert len(watchdog) == 1
        assert all(alive(pid) for pid in pids)
        gateway.send_signal(signal.SIGKILL)
        await gateway.wait()
        await gone(*pids, *watchdog)
    finally:
        if gateway.returncode is None:
            gateway.kill()
            await gateway.wait()


@pytest.mark.rule("servers.gateway-killed")
async def test_a_watchdog_that_dies_is_replaced_and_knows_all_children(tmp_path: Path) -> None:
    async with scripted("stdio-modern", tmp_path, {"tools": [tool("t")]}) as (_, settings), pool(settings) as running:
        await running.available("s")
        watchdog = running.servers._around.watchdog
        assert watchdog._process is not None
        first = watchdog._process
        first.kill()
        first.wait()
        await running.call("s", "t", {}, session="a")
        await running.call("s", "t", {}, session="b")
        assert watchdog._process is not None
        assert watchdog._process.pid != first.pid
        assert len(watchdog._groups) == 2


@pytest.mark.slow
@pytest.mark.rule("servers.thousand-cycles")
async def test_after_a_thousand_connects_and_kills_the_process_count_is_back_at_its_base(tmp_path: Path) -> None:
    """Every way to end: killed in mid-call, killed from outside, its session ended; descriptors come back as well."""
    tiny = tmp_path / "tiny.py"
    tiny.write_text(TINY)
    base, descriptors = children(os.getpid()), len(os.listdir("/proc/self/fd"))
    began = time.monotonic()
    async with pool(stdio("s", sys.executable, ["-I", "-S", str(tiny)])) as running:
        await running.available("s")

        async def cycle(index: int) -> None:
            session = f"session-{index}"
            pid = int(text(await running.call("s", "t", {}, session=session)))
            match index % 3:
                case 0:
                    outcome = await running.call("s", "t", {"kill": True}, session=session)
                    assert getattr(outcome, "in_doubt", False)
                case 1:
                    os.kill(pid, signal.SIGKILL)
                case _:
                    pass
            running.servers.session_ended(session)
            await gone(pid)

        async def worker(first: int) -> None:
            for index in range(first, 1000, 8):
                await cycle(index)

        await asyncio.gather(*map(worker, range(8)))
    assert children(os.getpid()) - base == set()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 4
    assert time.monotonic() - began < 120
