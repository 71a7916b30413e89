"""The page of a bus, while a command runs it: `--http`."""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from pipebus.bus.bus import Bus
from pipebus.cli import CommandError
from pipebus.cli.arguments import TOKEN
from pipebus.errors import PipebusError
from pipebus.foreign.packages import install


def add_http(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--http", metavar="HOST:PORT",
        help="serve a page that shows the bus, with /livez, /readyz and /metrics; 127.0.0.1:0 takes a free port",
    )  # fmt: skip
    parser.add_argument(
        "--no-dry-run", action="store_true", help="with --http: run no message through the filters to show its path"
    )


@contextmanager
def served(bus: Bus, address: str | None, dry_run: bool = True) -> Iterator[None]:
    """Serve the page in a `with` block, and print its URL; without an address, do nothing."""
    with ExitStack() as stack:
        if address is not None:
            try:
                from pipebus.web.serving import serving

                url = stack.enter_context(serving(bus, address, os.environ.get(TOKEN), dry_run))
            except ImportError:
                raise CommandError(f"--http needs the package starlette: {install('web')}") from None
            except PipebusError as error:
                raise CommandError(f"--http: {error}") from None
            print(f"page: {url}", file=sys.stderr, flush=True)
        yield
