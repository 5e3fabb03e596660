"""`gateway init`: a `servers.toml`, policies and an operator's key to begin with."""

import getpass
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from gateway.config import key_digest, shipped_policies
from gateway.config.types import AGENT_NAME
from gateway.model.errors import ConfigurationError

_INTERRUPT = """[[interrupts]]                 # an agent that makes the same call over and over is stopped
name = "same-call-loop"
when = { identical_calls = 20, within = "60s" }
then = "pause-session"
for = "15m"
reason = "the same call twenty times in a minute"
"""

_EXAMPLE = """
# A tool server is three lines. `gateway import claude-desktop` (or claude-code, cursor, vscode, FILE) writes them for you.
# [servers.time]
# command = "uvx"
# args = ["mcp-server-time"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beginning:
    """What `init` is about to write."""

    file: Path
    policies: Path
    operator: str
    operator_key: str
    """Shown once; only its digest is written."""
    text: str
    """`servers.toml` without any server."""


def new_key() -> str:
    """An operator's key of 256 bits. The prefix is for people, and for scanners that look for leaked secrets."""
    return f"gwo_{secrets.token_urlsafe(32)}"


def operator_name() -> str:
    """The user's own name if operators may have such a name, else `operator`."""
    try:
        name = getpass.getuser()
    except (OSError, KeyError):
        name = ""
    return name if AGENT_NAME.fullmatch(name) else "operator"


def prepare(file: Path, operator: str | None = None) -> Beginning:
    """What `init` will write; writes nothing.

    Raises:
        ConfigurationError: there is a file already, or no such operator can be.
    """
    if file.exists():
        raise ConfigurationError("is there already", file=str(file), mend="name another with --config PATH")
    name = operator or operator_name()
    if not AGENT_NAME.fullmatch(name):
        raise ConfigurationError(f"{name!r} cannot name an operator", key="--operator", mend="use letters and digits")
    key = new_key()
    text = f"""# The gateway's configuration. Every key: docs/configuration.md. Check it with `gateway check`.

[policy]
engine = "embedded:policies"     # who may do what: policies/*.rego, beside this file

[operators.{name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else f'"{name}"'}]
key_sha256 = "{key_digest(key)}"
role = "operator"

{_INTERRUPT}"""
    return Beginning(file=file, policies=file.parent / "policies", operator=name, operator_key=key, text=text)


def example() -> str:
    """What stands where no server was imported."""
    return _EXAMPLE


def write_policies(directory: Path) -> list[Path]:
    """Copy the shipped policies; a file that is there already stays as it is. Returns what was written."""
    shipped = shipped_policies()
    sources = [path for path in sorted(shipped.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    if not any(path.suffix == ".rego" for path in sources):
        raise ConfigurationError("holds no policies", file=str(shipped), mend="install the package again")
    written: list[Path] = []
    for source in sources:
        target = directory / source.relative_to(shipped)
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            written.append(target)
    return written
