"""Processes on a pseudo-terminal. Keys reach the whole foreground process group, as in a shell."""

import fcntl
import os
import pty
import subprocess
import termios

import pytest

from tests.support.own_process import TIMEOUT_SECONDS, without_ray


class OnTerminal:
    """A process with its own controlling terminal."""

    def __init__(self, command, env):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(slave)
        self.seen = ""

    def until(self, text):
        """Read until this text has been printed, or until the process ends for None."""
        while text is None or text not in self.seen:
            try:
                self.seen += os.read(self.master, 65536).decode(errors="replace")
            except OSError:  # the other end is closed
                assert text is None, self.seen
                return

    def type(self, keys):
        os.write(self.master, keys)

    def status(self):
        self.until(None)
        return self.process.wait(TIMEOUT_SECONDS)


@pytest.fixture
def terminals():
    started = []

    def start(command, **more):
        started.append(OnTerminal(command, {**without_ray(), **more}))
        return started[-1]

    yield start
    for terminal in started:
        terminal.process.kill()
        terminal.process.wait()
        os.close(terminal.master)
