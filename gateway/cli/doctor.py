"""`doctor`: what is wrong around the gateway that its configuration alone does not show."""

import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from gateway.cli import frame

if TYPE_CHECKING:
    from gateway.config import Configuration

FIXED_SQLITE = (3, 51, 3)
"""The first SQLite without the WAL-reset bug (sqlite.org/wal.html): with more than one writing connection older ones may corrupt a database."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    state: Literal["ok", "warning", "failed"]
    about: str
    text: str


@frame.command()
@frame.json_option
def doctor(as_json: bool) -> None:
    """Look for what is wrong around the gateway: bypasses, missing commands, unsafe files, old libraries."""
    configuration = frame.configuration(to_use=True)
    findings = [
        *_configuration(configuration),
        *_commands(configuration),
        *_clients(configuration),
        *_files(configuration),
        *_sqlite(configuration),
        *_policies(configuration),
    ]
    if as_json:
        frame.print_json([{"state": one.state, "about": one.about, "text": one.text} for one in findings])
    for finding in findings if not as_json else ():
        click.echo(f"{finding.state:8} {finding.about}: {finding.text}")
    if any(finding.state == "failed" for finding in findings):
        raise frame.Negative("")


def _configuration(configuration: "Configuration") -> Iterator[Finding]:
    count = len(configuration.servers)
    yield Finding("ok", "configuration", f"{configuration.file}, {count} server{'s' if count != 1 else ''}")
    for warning in configuration.warnings:
        yield Finding("warning", "configuration", warning)
    if not configuration.operators:
        yield Finding("warning", "operators", "there are no [operators]: nobody can decide from the command line")


def _commands(configuration: "Configuration") -> Iterator[Finding]:
    from gateway.config import find_command

    for server in configuration.servers.values():
        if server.disabled_reason is not None:
            yield Finding("failed", server.name, f"is disabled: {server.disabled_reason}")
        elif server.command is not None:
            path = server.env["PATH"].reveal() if "PATH" in server.env else None
            resolved = find_command(server.command, path)
            if resolved is None:
                yield Finding(
                    "failed", server.name, f"{server.command!r} is not found; install it, or write its absolute path"
                )
            else:
                yield Finding("ok", server.name, resolved)
        if server.command is not None and not server.cwd.is_dir():
            yield Finding("failed", server.name, f"its cwd {server.cwd} is no directory")


def _clients(configuration: "Configuration") -> Iterator[Finding]:
    from gateway.clients.installing import still_direct
    from gateway.clients.known import ClientFileError, Surroundings

    try:
        direct = still_direct(configuration, Surroundings.here())
    except ClientFileError as error:
        yield Finding("warning", "clients", str(error))
        return
    for entry, known in direct:
        client = entry.place.client
        if known:
            mend = f"the gateway has it too; `gateway install {client}` moves it out"
            yield Finding("failed", client, f"reaches {entry.name} directly, past the gateway ({entry.place}); {mend}")
        else:
            mend = f"`gateway import {client}` takes it over"
            yield Finding("warning", client, f"reaches {entry.name} directly ({entry.place}); {mend}")
    if not direct:
        yield Finding("ok", "clients", "no known client reaches a tool server directly")


def _files(configuration: "Configuration") -> Iterator[Finding]:
    """Who else may change, or read, what decides."""
    if os.name != "posix":
        return
    decide: list[Path] = [configuration.file, configuration.directory]
    if configuration.policy.path is not None:
        policies = configuration.policy.path
        decide += [policies, *sorted(policies.rglob("*.rego"))] if policies.is_dir() else [policies]
    for path in decide:
        if (
            path.exists()
            and path.stat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)
            and not path.stat().st_mode & stat.S_ISVTX
        ):
            yield Finding("warning", "files", f"{path} may be changed by other users; chmod go-w {path}")
    secrets = configuration.directory / "secrets"
    private = [path for path in sorted(secrets.glob("*")) if path.name != ".gitignore"] if secrets.is_dir() else []
    if (store := configuration.store.path) is not None:
        private += [store, *(store.with_name(store.name + ending) for ending in (".key", ".signing.pem"))]
    for match in re.finditer(r"\$\{file:([^}]+)\}", configuration.text):
        path = configuration.directory / Path(match[1].strip()).expanduser()
        if path not in private:
            private.append(path)
    for path in private:
        if path.exists() and path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding("warning", "files", f"{path} may be read by other users; chmod 600 {path}")


def _sqlite(configuration: "Configuration") -> Iterator[Finding]:
    if configuration.store.scheme != "sqlite":
        return
    if sqlite3.sqlite_version_info < FIXED_SQLITE:
        wanted = ".".join(map(str, FIXED_SQLITE))
        yield Finding(
            "warning",
            "sqlite",
            f"{sqlite3.sqlite_version} is older than {wanted}, which mends a bug that can corrupt a database with several "
            "writers; the gateway writes with one connection and is not affected, other programs on its file would be",
        )
    else:
        yield Finding("ok", "sqlite", sqlite3.sqlite_version)


def _policies(configuration: "Configuration") -> Iterator[Finding]:
    from gateway.adapters.policy_files import load_policies
    from gateway.model.errors import GatewayError

    if configuration.policy.scheme != "embedded" or configuration.policy.path is None:
        yield Finding("ok", "policy", str(configuration.policy.url))
        return
    try:
        load_policies(configuration.policy.path, decision=configuration.policy.decision)
    except GatewayError as error:
        yield Finding("failed", "policy", str(error).splitlines()[0])
        return
    where = "the ones that the package ships" if configuration.policy.shipped else str(configuration.policy.path)
    yield Finding("ok", "policy", where)
