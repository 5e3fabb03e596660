"""Calls made again, sessions compared, and what a recording will not serve."""

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import replayed
from tests.gateway_process import PROGRAM, configure, serve
from tests.replay.test_round_trip import called, exported, gone
from tests.replay.wires import http_bodies, stdio_lines
from tests.running import server_table
from tests.scripted_server import Scripted, tool

KEY = "an-operators-key-of-at-least-128-bits-0123456789"
OPERATOR = f'\n[operators.ann]\nkey_sha256 = "{hashlib.sha256(KEY.encode()).hexdigest()}"\nrole = "operator"\n'

SCRIPT: dict[str, Any] = {
    "tools": [tool("look", annotations={"readOnlyHint": True}), tool("write")],
    "on": {
        "tools/call:look": [[{"text": '{"n": 1, "at": "then"}'}], [{"text": '{"n": 2, "at": "now"}'}]],
        "tools/call:write": [{"effect": "written"}, {"text": "written"}],
    },
}

RISKS = 'risk = "write"\n[servers.s.tools.look]\nrisk = "read"\n'


def gateway(*arguments: str, code: int) -> str:
    done = subprocess.run(
        [*PROGRAM, *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "GATEWAY_OPERATOR_KEY": KEY},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def a_session(directory: Path, *requests: dict[str, Any]) -> tuple[Path, str, Scripted]:
    """A store with one session of these requests."""
    server = Scripted(directory / "server", SCRIPT)
    text = server_table(server, more=RISKS) + OPERATOR + "\n[approvals]\ninline_wait_seconds = 0\n"
    config = configure(directory, text)
    stdio_lines([*PROGRAM, "stdio", "--config", str(config)], requests, modern=True)
    return config, newest(config), server


def newest(config: Path) -> str:
    found: str = json.loads(gateway("sessions", "list", "--config", str(config), "--json", code=0))[0]["id"]
    return found


@pytest.mark.rule("replay.resend")
def test_calls_are_made_again_and_compared_and_writes_are_left_out(tmp_path: Path) -> None:
    config, session, server = a_session(tmp_path, called("s__look"), called("s__write", {"x": 1}))
    again = ["replay", "resend", session, "--config", str(config), "--agent", "local", "--json"]
    look, write = json.loads(gateway(*again, code=1))
    assert look["state"] == "differs"
    assert [each["path"] for each in look["differences"]] == ["result.content.0.text"]
    assert (write["state"], len(server.effects("written"))) == ("skipped", 1)
    look, write = json.loads(gateway(*again, "--ignore", "n", "--ignore", "at", code=0))
    assert look["state"] == "same"
    record = json.loads(gateway("calls", "show", look["call_id"], "--config", str(config), "--json", code=0))
    assert record["record"]["body"]["command"]["replay_of"] == look["replay_of"]


@pytest.mark.rule("replay.resend")
def test_a_write_is_made_again_only_when_asked_for_and_then_held(tmp_path: Path) -> None:
    config, session, server = a_session(tmp_path, called("s__write", {"x": 1}))
    again = ["replay", "resend", session, "--config", str(config), "--agent", "local", "--include-writes", "--json"]
    [held] = json.loads(gateway(*again, code=0))
    assert held["state"] == "held"
    assert len(server.effects("written")) == 1
    [open_] = json.loads(holds(config))
    assert open_["reasons"][0]["code"] == "replay_resend"
    [same] = json.loads(gateway(*again, "--no-hold", code=0))
    assert same["state"] == "same"
    assert len(server.effects("written")) == 2


def holds(config: Path) -> str:
    """The holds, by a gateway that is started for it."""
    with serve(config):
        return gateway("holds", "list", "--config", str(config), "--json", code=0)


@pytest.mark.rule("replay.resend")
def test_nobody_makes_calls_again_without_an_operators_key(tmp_path: Path) -> None:
    config, session, server = a_session(tmp_path, called("s__look"))
    before = len(server.received("tools/call"))
    done = subprocess.run(
        [*PROGRAM, "replay", "resend", session, "--config", str(config), "--agent", "local"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "GATEWAY_OPERATOR_KEY": "somebody-elses-key-of-many-many-bits-0123456789"},
    )
    assert done.returncode == 1
    assert "no operator has this key" in done.stderr
    assert len(server.received("tools/call")) == before


@pytest.mark.rule("replay.sessions-diff")
def test_two_runs_are_compared_up_to_where_they_part(tmp_path: Path) -> None:
    config, first, _ = a_session(tmp_path, called("s__look", {"a": 1}), called("s__write", {"x": 1}))
    requests = [called("s__look", {"a": 2}), called("s__look", {"b": 1})]
    stdio_lines([*PROGRAM, "stdio", "--config", str(config)], requests, modern=True)
    second = newest(config)
    diff = ["sessions", "diff", first, second, "--config", str(config)]
    assert gateway(*diff, code=1) == "call 1: other arguments: s/look\n  arguments.a: 1 | 2\n"
    every = json.loads(gateway(*diff, "--all", "--json", code=1))
    assert [each["what"] for each in every] == ["arguments", "result", "call"]
    assert every[2]["right"] == "s/look"
    assert "the same" in gateway("sessions", "diff", first, first, "--config", str(config), code=0)


@pytest.mark.rule("replay.erased-results")
def test_what_was_erased_from_a_result_is_refused_and_never_served_as_stars(tmp_path: Path) -> None:
    script = {**SCRIPT, "on": {"tools/call:look": [{"text": '{"token": "hunter2"}'}]}}
    server = Scripted(tmp_path / "server", script)
    config = configure(tmp_path, server_table(server) + '\n[recording]\nredact = ["**.token"]\n')
    requests = [called("s__look"), called("s__write", {"token": "hunter2"})]
    stdio_lines([*PROGRAM, "stdio", "--config", str(config)], requests, modern=True)
    file = exported(tmp_path, config)
    assert b"hunter2" not in file.read_bytes()
    said = stdio_lines([*PROGRAM, "replay", "serve", str(file), "--stdio"], requests, modern=True)
    assert b"***" not in said[0]
    assert b"replay.missing" in said[0]
    assert b"erased before it was recorded" in said[0]
    # What it was asked with was erased too, and is not compared; its own result repeats it, and is refused.
    assert b"cannot be played" in said[1]


@pytest.mark.rule("replay.loose")
def test_loose_serves_in_any_order_what_strict_refuses(tmp_path: Path) -> None:
    config, _, server = a_session(tmp_path, called("s__look", {"a": 1}), called("s__write", {"x": 1}))
    file = exported(tmp_path, config)
    gone(server)
    other_way = [called("s__write", {"x": 1}), called("s__look", {"a": 1})]
    with replayed(file) as strict:
        first, _ = http_bodies(strict.url, other_way, modern=True)
        assert b"replay.missing" in first
        assert strict.report().left == 1
    with replayed(file, loose=True) as loose:
        assert all(b"replay.missing" not in body for body in http_bodies(loose.url, other_way, modern=True))
        loose.assert_complete()


@pytest.mark.rule("replay.timing")
def test_with_timing_a_call_takes_what_it_took(tmp_path: Path) -> None:
    script = {**SCRIPT, "on": {"tools/call:look": [{"delay": 1.2}, {"text": "late"}]}}
    server = Scripted(tmp_path / "server", script)
    config = configure(tmp_path, server_table(server))
    stdio_lines([*PROGRAM, "stdio", "--config", str(config)], [called("s__look")], modern=True)
    file = exported(tmp_path, config)
    took = {}
    for timing in (False, True):
        with replayed(file, timing=timing) as again:
            http_bodies(again.url, [{"method": "tools/list"}], modern=True)
            began = time.monotonic()
            http_bodies(again.url, [called("s__look")], modern=True)
            took[timing] = time.monotonic() - began
    assert took[True] >= 1.2 > took[False]


@pytest.mark.rule("replay.one-session")
def test_a_file_with_several_sessions_asks_which(tmp_path: Path) -> None:
    config, first, _ = a_session(tmp_path, called("s__look", {"a": 1}))
    stdio_lines([*PROGRAM, "stdio", "--config", str(config)], [called("s__look", {"b": 1})], modern=True)
    file = exported(tmp_path, config)
    with pytest.raises(RuntimeError, match="holds 2 sessions; choose one with --session"), replayed(file):
        pass
    with replayed(file, session=first) as again:
        http_bodies(again.url, [called("s__look", {"a": 1})], modern=True)
        again.assert_complete()
