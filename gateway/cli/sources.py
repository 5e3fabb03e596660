"""Where commands that only look read from: the configuration's store, or with `--recording` a file."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from gateway.cli.frame import Negative, configuration


def recording_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--recording FILE`, given to the function as `recording`."""
    return click.option(
        "--recording",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Read this export (`gateway log export`) or copy of a store, not the store.",
    )(function)


@contextmanager
def store(recording: Path | None = None) -> Iterator[sqlite3.Connection]:
    """The configuration's store, or the recording, for reading. A recording needs no configuration."""
    if recording is not None:
        from gateway.adapters.imports import open_recording

        with open_recording(recording) as raw:
            yield raw
        return
    from gateway.adapters.sqlite import read_only

    configured = configuration().store
    if configured.path is None:
        raise Negative(f"the store is `{configured.scheme}:`; there is no file to read")
    with read_only(configured.path) as raw:
        yield raw
