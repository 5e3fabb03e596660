"""What all commands share: `--config`, `--json`, exit codes, one-line errors, and the list of commands.

A command is a click command in a module of this package, made with `@command(...)`, and a line in `COMMANDS`. Exit codes
(CONTRACT 2): 0 done; 1 it ran and the answer is no (raise `Negative`, or call `context.exit(1)` after printing); 2 wrong
usage or configuration. Results go to stdout, everything else to stderr.
"""

import importlib
import json
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from gateway import __version__

if TYPE_CHECKING:
    from gateway.config import Configuration, OperatorSettings

_T = TypeVar("_T")

COMMANDS: Mapping[str, tuple[str, str, str]] = {
    # command: (module of gateway.cli, attribute, what the overview says)
    "init": ("start", "init", "Write a servers.toml and policies to begin with."),
    "serve": ("start", "serve", "Serve agents over HTTP."),
    "stdio": ("start", "stdio", "Serve one agent on standard input and output."),
    "check": ("check", "check", "Check the configuration and the policies."),
    "doctor": ("doctor", "doctor", "Look for what is wrong around the gateway."),
    "import": ("clients", "import_", "Take over the tool servers of a client."),
    "install": ("clients", "install", "Put the gateway into a client's configuration."),
    "status": ("look", "status", "Show what the running gateway is doing."),
    "servers": ("look", "servers", "List the tool servers."),
    "tools": ("look", "tools", "List the tools, as an agent sees them."),
    "call": ("look", "call", "Call a tool through the whole chain."),
    "sessions": ("evidence", "sessions", "List, show and compare sessions."),
    "calls": ("evidence", "calls", "List and show calls."),
    "tail": ("evidence", "tail", "Follow calls as they happen."),
    "log": ("evidence", "log", "Export and verify the records."),
    "replay": ("replay", "replay", "Serve, judge or call a recorded session again."),
    "holds": ("decide", "holds", "List, show, approve and deny held calls."),
    "pause": ("decide", "pause", "Refuse new calls."),
    "resume": ("decide", "resume", "Lift a pause or kill."),
    "kill": ("decide", "kill", "Refuse new calls and cancel those in flight."),
    "reload": ("look", "reload", "Take over a changed configuration."),
    "policy": ("policy", "policy", "Check, test and ask the policies."),
    "quotas": ("decide", "quotas", "Show the use of quotas."),
    "breakers": ("decide", "breakers", "Show, trip and reset circuit breakers."),
    "dead-letters": ("operate", "dead_letters", "List, show, retry and drop calls that failed for good."),
    "keys": ("operate", "keys", "Show the key that signs decisions and checkpoints."),
}
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "Start": ("init", "serve", "stdio", "check", "doctor", "import", "install"),
    "Look": ("status", "servers", "tools", "sessions", "calls", "tail", "call"),
    "Decide": ("holds", "pause", "resume", "kill", "reload"),
    "Policy": ("policy",),
    "Evidence": ("log", "replay"),
    "Operate": ("quotas", "breakers", "dead-letters", "keys"),
}


class Negative(Exception):
    """The command ran and the answer is no: exit code 1. The text, if any, goes to stderr as one line."""


@dataclass(slots=True)
class State:
    """What `--config` said, wherever on the line it stood."""

    config: str | None = None


def state() -> State:
    """The state of the running command."""
    return click.get_current_context().ensure_object(State)


def _remember_config(context: click.Context, _parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        context.ensure_object(State).config = value
    return value


def _config_option() -> click.Option:
    return click.Option(
        ["--config"],
        metavar="PATH",
        expose_value=False,
        is_eager=True,
        callback=_remember_config,
        help="The servers.toml to use.",
    )


class Command(click.Command):
    """A command that also takes `--config`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_config_option())


class Group(click.Group):
    """A group of commands (`policy`, `log`) whose members take `--config` as well."""

    command_class = Command

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_config_option())


Group.group_class = Group


class Root(Group):
    """`gateway` itself: finds its commands in `COMMANDS` and imports a module when one of them runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _help = COMMANDS[cmd_name]
        found = getattr(importlib.import_module(f"gateway.cli.{module}"), attribute)
        assert isinstance(found, click.Command)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            raise click.UsageError(
                f"there is no command {args[0]!r}"
                + (f"; did you mean {near[0]!r}?" if near else "; `gateway --help` lists them")
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for section, names in SECTIONS.items():
            with formatter.section(section):
                formatter.write_dl([(name, COMMANDS[name][2]) for name in names])


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(version)s")
def gateway() -> None:
    """An MCP gateway: agents propose tool calls, the gateway decides, executes and records them."""


def command(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """Make a top-level command (`@command()` over the function; `@GROUP.command()` inside a group)."""
    return click.command(name=name, cls=Command, **attributes)


def group(name: str | None = None, **attributes: Any) -> Callable[[Callable[..., Any]], Group]:
    """Make a group of commands."""

    def made(function: Callable[..., Any]) -> Group:
        found = click.group(name=name, cls=Group, **attributes)(function)
        assert isinstance(found, Group)
        return found

    return made


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def configuration_path() -> Path:
    """The configuration file of this command: `--config`, `$GATEWAY_CONFIG`, `./servers.toml`, the user's."""
    from gateway.config import discover

    return discover(state().config)


def configuration(*, to_use: bool = False) -> "Configuration":
    """The configuration of this command, loaded.

    Args:
        to_use: tool servers are started or somebody is authenticated with it, so every reference has to resolve. Commands
            that look, or talk to a running gateway, need less (`gateway.config.load`, `to_look`).

    Raises:
        ConfigurationError: there is none, or it cannot be used; `main` prints it and exits with 2.
    """
    from gateway.config import load

    return load(configuration_path(), to_look=not to_use)


def operator_key() -> str:
    """The operator's key: `$GATEWAY_OPERATOR_KEY`, or asked for on a terminal.

    Raises:
        click.UsageError: neither.
    """
    if key := os.environ.get("GATEWAY_OPERATOR_KEY"):
        return key
    if sys.stdin.isatty() and sys.stderr.isatty():
        entered = click.prompt("Operator key", hide_input=True, err=True)
        assert isinstance(entered, str)
        return entered
    raise click.UsageError("this needs an operator's key; set GATEWAY_OPERATOR_KEY")


def operator(configuration: "Configuration", role: str = "operator") -> "OperatorSettings":
    """The operator whose key was given, if their role is at least `role` (viewer < approver < operator).

    Raises:
        click.UsageError: no key was given.
        Negative: nobody has that key, or the role does not reach.
    """
    if not configuration.operators:
        raise click.UsageError(
            f"{configuration.file.name} has no [operators]; `gateway init --operator NAME` makes a key for one"
        )
    found = configuration.operator_for_key(operator_key())
    if found is None:
        raise Negative("no operator has this key")
    ranks = ("viewer", "approver", "operator")
    if ranks.index(found.role) < ranks.index(role):
        raise Negative(f"{found.name} is {found.role}; this needs {role}")
    return found


def print_json(value: Any) -> None:
    """A result as JSON, one document. Known secrets are erased."""
    from gateway.config.secrets import REGISTRY

    plain = json.loads(json.dumps(value, default=str))
    click.echo(json.dumps(REGISTRY.redact_value(plain), indent=2, ensure_ascii=False))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A result as a table; columns as wide as they need to be, nothing cut off. Known secrets are erased."""
    from gateway.config.secrets import REGISTRY

    cells = [[REGISTRY.redact(str(cell)) if cell is not None else "" for cell in row] for row in rows]
    widths = [max(len(line[column]) for line in [list(headings), *cells]) for column in range(len(headings))]
    for line in [[heading.upper() for heading in headings], *cells]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def run(function: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
    """Run an async function to its end: on uvloop, where the platform has it, for what serves."""
    import importlib.util

    import anyio

    return anyio.run(
        function, *arguments, backend_options={"use_uvloop": importlib.util.find_spec("uvloop") is not None}
    )


def say(text: str) -> None:
    """Something for a person that is not the result: to stderr."""
    click.echo(text, err=True)


def _fail(text: str, code: int) -> NoReturn:
    from gateway.config.secrets import REGISTRY

    for line in text.splitlines():
        click.echo(REGISTRY.redact(line), err=True)
    sys.exit(code)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command line and exit with its code."""
    from gateway.model.errors import ConfigurationError, GatewayError, PolicyLoadError

    # `serve` and `stdio` configure their own, structured; of other commands only what went wrong is of interest.
    logging.basicConfig(
        format="%(levelname)s: %(message)s", level=os.environ.get("GATEWAY_LOG_LEVEL", "critical").upper()
    )
    try:
        code = gateway.main(
            args=None if arguments is None else list(arguments), prog_name="gateway", standalone_mode=False
        )
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Abort:
        _fail("gateway: stopped", 1)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "", err=True)
        sys.exit(2)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "gateway"
        _fail(f"{where}: {error.format_message()}", 2)
    except click.ClickException as error:
        _fail(f"gateway: {error.format_message()}", 1)
    except ConfigurationError as error:
        _fail("\n".join(str(one) for one in (error, *getattr(error, "others", ()))), 2)
    except PolicyLoadError as error:
        _fail(str(error), 2)
    except Negative as error:
        _fail(f"gateway: {error}" if str(error) else "", 1)
    except GatewayError as error:
        _fail(f"gateway: {error}", 1)
    except BrokenPipeError:
        # The reader of our output went away (`gateway calls list | head`); there is nobody left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
