"""`policy`: check, test and ask the policies (CONTRACT 4)."""

from gateway.cli.frame import group


@group()
def policy() -> None:
    """Check, test and ask the policies."""
