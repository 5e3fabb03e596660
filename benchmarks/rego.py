"""Decisions of the benchmark policy: the embedded engine, and beside it an OPA where one is on PATH.

    python -m benchmarks.rego [--decisions N] [--no-opa]

The policy (`rego_policy/gateway.rego`) has globs, path roots, SQL verbs, amounts, time windows, holds, obligations and
role data. It is asked with data of 100 and of 10,000 entries, by eight questions in turn. Times are for one decision on one
core, the result as JSON data included; OPA's are its own evaluation timer and a round trip over a kept-alive connection.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway.rego import Policy, compile_modules

POLICY = Path(__file__).parent / "rego_policy" / "gateway.rego"
ENTRY = "data.gateway.decision"
TIME_NS = 1_795_205_460_000_000_000


def data(entries: int) -> dict[str, Any]:
    """Roles, limits and servers; `entries` of the first two."""
    roles = {
        f"role{i}": {"tools": [f"server{i}/*", "git/git_*"], "max_risk": i % 3, "prompts": i % 2 == 0}
        for i in range(entries)
    }
    roles["reader"] = {"tools": ["git/git_*", "fs/read_*", "db/query"], "max_risk": 0, "prompts": True}
    roles["writer"] = {"tools": ["git/*", "fs/*", "bank/transfer"], "max_risk": 1, "prompts": True}
    limits = {f"agent{i}": {"daily": i * 10} for i in range(entries)}
    limits["claude"] = {"daily": 5000}
    servers = {
        "git": {"roots": ["/srv/repo", "/srv/other"]},
        "fs": {"roots": ["/srv/files", "/tmp/work"]},
        "db": {"roots": []},
        "bank": {"roots": []},
    }
    return {"roles": roles, "limits": limits, "servers": servers}


def questions() -> list[dict[str, Any]]:
    def question(server: str, name: str, risk: str, arguments: dict[str, Any], roles: list[str]) -> dict[str, Any]:
        return {
            "version": 1,
            "subject": {"type": "agent", "id": "claude", "roles": roles, "claims": {}},
            "action": {"name": "tools/call"},
            "resource": {
                "type": "tool", "id": f"{server}/{name}", "server": server, "name": name, "risk": risk, "annotations": {},
                "definition_sha256": "0" * 64,
            },
            "arguments": arguments,
            "meta": {},
            "context": {
                "time": "2026-11-20T20:11:00Z", "time_ns": TIME_NS, "session_id": "s", "call_id": "c", "trace_id": "t",
                "client": {}, "approval": None,
                "recent": [
                    {"tool": "git/git_log", "outcome": "ok", "code": "", "time_ns": TIME_NS - i * 20_000_000_000}
                    for i in range(5)
                ],
            },
        }  # fmt: skip

    return [
        question("git", "git_log", "read", {"repo_path": "/srv/repo"}, ["reader"]),
        question("git", "git_commit", "write", {"repo_path": "/srv/repo", "message": "m"}, ["reader", "writer"]),
        question("fs", "read_file", "read", {"path": "/srv/files/a.txt"}, ["reader"]),
        question("fs", "read_file", "read", {"path": "/etc/passwd"}, ["reader"]),
        question("fs", "write_file", "write", {"path": "/srv/files/../x", "content": "x"}, ["writer"]),
        question("db", "query", "read", {"query": "select * from t where a = 1"}, ["reader"]),
        question("db", "query", "read", {"query": "drop table t"}, ["reader"]),
        question("bank", "transfer", "write", {"amount": 1500, "to": "DE00"}, ["writer"]),
    ]


def percentiles(times: list[float]) -> str:
    ordered = sorted(times)
    return f"p50 {statistics.median(ordered) * 1e6:8.1f} us   p99 {ordered[int(len(ordered) * 0.99)] * 1e6:8.1f} us"


def measure(ask: Callable[[dict[str, Any]], Any], decisions: int) -> list[float]:
    asked = questions()
    for question in asked * 20:
        ask(question)
    times = []
    for i in range(decisions):
        question = asked[i % len(asked)]
        started = time.perf_counter()
        ask(question)
        times.append(time.perf_counter() - started)
    return times


def embedded(entries: int, decisions: int) -> tuple[Policy, list[Any]]:
    source = POLICY.read_text()
    documents = data(entries)
    compile_modules({"warm.rego": "package warm\n\np := 1\n"})
    loads = []
    for _ in range(5):
        started = time.perf_counter()
        policy = compile_modules({"gateway.rego": source}, documents)
        loads.append(time.perf_counter() - started)
    decide = policy.prepare(ENTRY)
    print(f"embedded, {entries:6} entries: {percentiles(measure(decide, decisions))}   load {min(loads) * 1e3:.1f} ms")
    return policy, [decide(question) for question in questions()]


class Opa:
    """An OPA server of our own, ended with the block."""

    def __init__(self, opa: str, entries: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = tempfile.TemporaryDirectory()
        Path(self.folder.name, "data.json").write_text(json.dumps(data(entries)))
        self.process = subprocess.Popen(
            [opa, "run", "--server", "--addr", f"127.0.0.1:{self.port}", "--log-level", "error", str(POLICY),
             f"{self.folder.name}/data.json"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port)

    def __enter__(self) -> Opa:
        for _ in range(200):
            try:
                self.connection.request("GET", "/health")
                self.connection.getresponse().read()
                return self
            except OSError:
                self.connection.close()
                time.sleep(0.05)
        raise RuntimeError("OPA does not start")

    def __exit__(self, *exc: object) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(10)
        self.folder.cleanup()

    def ask(self, question: dict[str, Any], *, metrics: bool = False) -> Any:
        body = json.dumps({"input": question})
        path = "/v1/data/gateway/decision" + ("?metrics=true" if metrics else "")
        self.connection.request("POST", path, body, {"content-type": "application/json"})
        return json.loads(self.connection.getresponse().read())


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmark Rego decisions")
    parser.add_argument("--decisions", type=int, default=20_000)
    parser.add_argument("--no-opa", action="store_true")
    options, _ = parser.parse_known_args()  # scripts/bench passes the others' options too
    opa = None if options.no_opa else shutil.which("opa")
    for entries in (100, 10_000):
        _, ours = embedded(entries, options.decisions)
        if opa is None:
            continue
        with Opa(opa, entries) as server:
            theirs = [server.ask(question)["result"] for question in questions()]
            print(f"OPA over HTTP, {entries} entries: {percentiles(measure(server.ask, min(options.decisions, 3000)))}")
            asked = questions()
            own = [
                server.ask(asked[i % len(asked)], metrics=True)["metrics"]["timer_rego_query_eval_ns"] / 1e9
                for i in range(2000)
            ]
            print(f"OPA's evaluation, {entries} entries: {percentiles(own)}")
            print(f"the {len(asked)} decisions are {'the same' if ours == theirs else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
