"""A real OPA as an oracle: it is asked for the outcome of single builtin calls."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from importlib import resources
from typing import Any

from gateway.rego.values import RegoSet, Value, json_text, number_from_text, number_text, sorted_keys, unkey

UNDEFINED = "undefined"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call came to: a result as JSON text, `undefined`, or an error's code and message."""

    result: str = ""
    error: str = ""

    def as_pair(self) -> list[str]:
        return [self.result, self.error]


def rego_text(value: Value) -> str:
    """A value as Rego source text."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list):
        return "[" + ", ".join(map(rego_text, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{rego_text(unkey(k))}: {rego_text(value[k])}" for k in sorted_keys(value)) + "}"
    if isinstance(value, RegoSet):
        return "{" + ", ".join(map(rego_text, value)) + "}" if len(value) else "set()"
    return number_text(value)


class Opa:
    """An `opa run --server`, ended with the test."""

    def __init__(self, program: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.module = ""
        self.process = subprocess.Popen(
            [
                program,
                "run",
                "--server",
                "--addr",
                f"127.0.0.1:{self.port}",
                "--log-level",
                "error",
                "--skip-version-check",
            ],
            # The zones of the package that the engine reads, not those of the machine.
            env={**os.environ, "ZONEINFO": str(resources.files("tzdata") / "zoneinfo")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 20
        while True:
            try:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
                self.connection.request("GET", "/health")
                self.connection.getresponse().read()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.wait(timeout=10)

    def ask(self, name: str, arguments: list[Value]) -> Outcome:
        """The outcome of `name(arguments...)` with strict builtin errors.

        JSON arguments are passed as input, whose types OPA's compiler does not know; others as literals.
        """
        if all(map(_is_json, arguments)):
            body = f"{name}({', '.join(f'input[{at}]' for at in range(len(arguments)))})"
            return self._evaluate(body, json_text(arguments))
        return self._evaluate(f"{name}({', '.join(map(rego_text, arguments))})", "null")

    def _evaluate(self, expression: str, document: str) -> Outcome:
        module = f"package asked\n\nx := {expression}\n"
        if module != self.module:
            status, answer = self._request("PUT", "/v1/policies/asked", module, "text/plain")
            if status != 200:
                self.module = ""
                return _failure(answer)
            self.module = module
        path = "/v1/data/asked/x?strict-builtin-errors=true"
        status, answer = self._request("POST", path, f'{{"input": {document}}}', "application/json")
        if status != 200:
            return _failure(answer)
        return Outcome(result=json_text(answer["result"])) if "result" in answer else Outcome(result=UNDEFINED)

    def _request(self, method: str, path: str, body: str, content_type: str) -> tuple[int, Any]:
        try:
            self.connection.request(method, path, body.encode(), {"Content-Type": content_type})
            response = self.connection.getresponse()
        except http.client.RemoteDisconnected:
            self.connection.close()
            return 500, {"code": "crashed", "message": "OPA panicked"}
        text = response.read().decode()
        return response.status, json.loads(text, parse_float=_number, parse_int=_number)


def _number(text: str) -> Value:
    # Numbers of a million digits take Python minutes to read.
    return number_from_text(text) if len(text) < 4_000 else text


def _is_json(value: Value) -> bool:
    if isinstance(value, list):
        return all(map(_is_json, value))
    if isinstance(value, dict):
        return all(isinstance(k, str) and _is_json(item) for k, item in value.items())
    return not isinstance(value, RegoSet)


def _failure(answer: Any) -> Outcome:
    first = (answer.get("errors") or [answer])[0]
    return Outcome(error=f"{first.get('code')}: {first.get('message')}")


def find_opa() -> str | None:
    """The path of an `opa` program, if there is one."""
    return shutil.which("opa")
