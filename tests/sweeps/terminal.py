"""Terminal: a command in a pseudo-terminal, and what its screen shows."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable

_TOKEN = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Screen:
    """As much of a terminal as rich uses: text that wraps, new lines, moves up, erasing, and a change of width."""

    def __init__(self, num_columns: int) -> None:
        self._num_columns = num_columns
        self._lines, self._row, self._column = [""], 0, 0

    @property
    def text(self) -> str:
        """Every line, those that have scrolled away included."""
        return "\n".join(line.rstrip() for line in self._lines)

    def resize(self, num_columns: int) -> None:
        """Lines that are too long now go on in the next one, as terminals do it; the cursor stays with its text."""
        self._num_columns = num_columns
        before, row = self._lines, self._row
        self._lines = []
        for number, line in enumerate(before):
            if number == row:
                self._row = len(self._lines)
            length = max(1, len(line.rstrip()))
            self._lines += [line[i : i + num_columns] for i in range(0, length, num_columns)]
        self._column = min(self._column, num_columns - 1)

    def write(self, output: str) -> None:
        for match in _TOKEN.finditer(output):
            numbers, command, is_return, is_newline, text = match.groups()
            if text:
                self._print(text)
            elif is_return:
                self._column = 0
            elif is_newline:
                self._row += 1
                self._lines += [""] * (self._row + 1 - len(self._lines))
            elif command == "A":
                self._row = max(0, self._row - int(numbers or 1))
            elif command == "K":
                self._lines[self._row] = ""
            elif command == "H":
                self._row, self._column = 0, 0
            elif command == "J":
                self._lines, self._row, self._column = [""], 0, 0

    def _print(self, text: str) -> None:
        for character in text:
            if self._column == self._num_columns:
                self._row, self._column = self._row + 1, 0
                self._lines += [""] * (self._row + 1 - len(self._lines))
            line = self._lines[self._row].ljust(self._column)
            self._lines[self._row] = line[: self._column] + character + line[self._column + 1 :]
            self._column += 1


class Terminal:
    """Runs a command with a terminal of its own."""

    def __init__(self, command: list[str], num_columns: int, num_rows: int, **environment: str) -> None:
        self._screen = Screen(num_columns)
        self._master, slave = pty.openpty()
        self._set_size(num_columns, num_rows)
        hidden = ("CI", "COLUMNS", "LINES", "NO_COLOR")
        inherited = {name: value for name, value in os.environ.items() if name not in hidden}
        self.process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env=inherited | {"TERM": "xterm-256color"} | environment,
        )
        os.close(slave)

    @property
    def text(self) -> str:
        """What has been on the screen and was not erased."""
        return self._screen.text

    def resize(self, num_columns: int, num_rows: int) -> None:
        """As when somebody drags the window's corner."""
        self._read(0.0)
        self._screen.resize(num_columns)
        self._set_size(num_columns, num_rows)
        self.process.send_signal(signal.SIGWINCH)

    def wait_for(self, what: Callable[[str], bool], seconds: float = 60.0) -> str:
        """The screen's text as soon as this is true of it."""
        deadline = time.monotonic() + seconds
        while not what(self.text):
            assert time.monotonic() < deadline, self.text
            if not self._read(1.0):
                assert what(self.text), self.text
        return self.text

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C: exit code, and what is left on the screen."""
        self.process.send_signal(signal.SIGINT)
        return self.end()

    def end(self, seconds: float = 60.0) -> tuple[int, str]:
        """Exit code, and what is left on the screen."""
        deadline = time.monotonic() + seconds
        while self._read(1.0):
            assert time.monotonic() < deadline, self.text
        return self.process.wait(10), self.text

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _set_size(self, num_columns: int, num_rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", num_rows, num_columns, 0, 0))

    def _read(self, seconds: float) -> bool:
        """Take in what was printed; False once nobody has the terminal open any more."""
        while select.select([self._master], [], [], seconds)[0]:
            try:
                output = os.read(self._master, 65536)
            except OSError:  # Linux says so when the last process has closed it
                return False
            if not output:
                return False
            self._screen.write(output.decode(errors="replace"))
            seconds = 0.0
        return True
