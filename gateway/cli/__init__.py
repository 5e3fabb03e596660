"""The command line: `gateway COMMAND`, one module a group of commands (CONTRACT 2).

Modules are imported when one of their commands runs, so that `gateway --help` and `gateway stdio` start quickly.
"""

from gateway.cli.frame import main

__all__ = ["main"]
