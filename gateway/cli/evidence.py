"""`calls`, `sessions`, `tail`, `log`: what was recorded."""

from gateway.cli.frame import command, group


@group()
def calls() -> None:
    """Calls that were recorded."""


@group()
def sessions() -> None:
    """Sessions that were recorded."""


@group()
def log() -> None:
    """The records themselves."""


@command()
def tail() -> None:
    """Follow calls as they happen."""
    raise NotImplementedError
