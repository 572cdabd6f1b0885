"""Messages to standard error: `message`, and what the packages of this program log.

Standard output has only what scripts read.
"""

import logging
import sys

from pipeline.cli.error_handling import OWN_PACKAGES


def message(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class _Messages(logging.Handler):
    """Prints log records as messages."""

    def emit(self, record: logging.LogRecord) -> None:
        message(self.format(record))


def show_logs() -> None:
    """Print what the packages of this program log, without time and level."""
    for package in OWN_PACKAGES:
        logger = logging.getLogger(package)
        logger.handlers = [_Messages()]
        logger.setLevel(logging.INFO)
