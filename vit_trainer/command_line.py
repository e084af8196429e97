"""Runs a command line built from types: every error of the user's is one line on stderr and exit code 2."""

import errno
import io
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, NoneType
from typing import Annotated, Any, NoReturn, TextIO, get_args

from cyclopts import UNSET, App, ArgumentCollection, CycloptsError, Group, Parameter
from cyclopts.help import ColumnSpec, DefaultFormatter, DescriptionRenderer, HelpEntry, HelpPanel, NameRenderer
from rich.console import Console, ConsoleOptions

from vit_trainer.errors import InputError, RunInterruptedError, VitTrainerError, reason_of
from vit_trainer.files.location import local_path
from vit_trainer.files.outgoing import Spoken, hide_secrets

TrackingUri = Annotated[str | None, Parameter(env_var="MLFLOW_TRACKING_URI")]
"""Type of a flag for MLflow's address, which its own variable gives where the flag isn't given."""
MOST = 2**32
"""Above this no flag takes a whole number; seeds end there."""
INTERRUPTED = 130
"""Exit code after Ctrl-C or a request to end."""
SECONDS_TO_SPEAK = 5.0
"""How long a launcher's other processes leave the first one to say why all fail: their end is its end."""
REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE, errno.EACCES, errno.EPERM)
"""What a disk says that is full, read-only, broken or another's: the one line says all that a traceback would."""
NOBODY_READS = 128 + signal.SIGPIPE
"""Exit code of a command whose output nobody reads any more, as shells give it to other commands."""
GROUPS = [
    Group(name, sort_key=place)
    for place, name in enumerate(("What", "Where", "Plan and budget", "Search and stopping", "Execution"))
]
"""Headings of --help, under which flags stand that say so; others come first."""
WHAT, WHERE, PLAN, SEARCH, EXECUTION = (Parameter(group=group) for group in GROUPS)
"""Metadata of a flag, or of a class whose fields are flags."""
HOW_RUN = Parameter(name="*", group=EXECUTION.group)
"""Metadata of an `Execution` whose fields are flags."""


def new_app(help_text: str, *, name: str | None = None, examples: Mapping[str, str] | None = None) -> App:
    """An empty command line whose errors are raised, so that `run` can print them its way.

    Args:
        name: what one types for it.
        examples: flags and what they do; --help begins with them.
    """
    options: dict[str, Any] = {"version_flags": [], "result_action": "return_value"}
    options |= {"name": name, "suppress_keyboard_interrupt": False}
    lines = [f"{name} {flags}  # {what}" for flags, what in (examples or {}).items()]
    text = "\n  ".join([f"{help_text}\n\nFor example", *lines]) if lines else help_text
    app = App(help=text, help_format="plaintext", help_formatter=_HelpPage(), config=_check_values, **options)
    app["--help"].show = False
    return app


def command_of(script: str) -> str:
    """What one types for a file of sweeps/: its path in a checkout, else the installed command.

    >>> command_of("paper_grid")
    'python sweeps/paper_grid.py'
    """
    name = script.removeprefix("paper_").replace("_", "-")
    has_checkout = (Path(__file__).parents[1] / "pyproject.toml").is_file()
    return f"python sweeps/{script}.py" if has_checkout else f"vit-sweeps {name}"


class _HelpPage(DefaultFormatter):
    """Panels whose columns stand below each other, and defaults as one would type them."""

    def __init__(self) -> None:
        super().__init__(column_specs=_columns)

    def __call__(self, console: Console, options: ConsoleOptions, panel: HelpPanel) -> None:
        entries = [_as_typed(entry) for entry in panel.entries]
        super().__call__(console, options, panel.copy(entries=entries))


def _columns(console: Console, options: ConsoleOptions, entries: list[HelpEntry]) -> tuple[ColumnSpec, ...]:
    width = min(32, console.width // 3)
    name = ColumnSpec(NameRenderer(max_width=width), style="cyclopts.name", width=width)
    return name, ColumnSpec(DescriptionRenderer(), overflow="fold")


def _as_typed(entry: HelpEntry) -> HelpEntry:
    """What needn't be said of a flag is left out: that one which isn't given is off, the field's line breaks."""
    text = getattr(entry.description, "primary_renderable", None)
    if text is not None:
        text.plain = " ".join(str(text).split())
    if entry.choices and entry.metavar == "CHOICE":
        entry = entry.copy(choices=None, metavar="|".join(entry.choices))
    if entry.default == "False":
        return entry.copy(default=None, negative_names=())
    return entry.copy(default=entry.default and entry.default.removesuffix(".0"))


def _check_values(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Refuse what no flag can mean and cyclopts would repair, and expand ~ in paths; InputError as `_checked`."""
    for argument in arguments:
        kinds = _kinds(argument.hint)
        for index, token in enumerate(argument.tokens):
            if token.implicit_value is UNSET:
                value = _checked(token.keyword or argument.name, token.value, kinds)
                argument.tokens[index] = token.evolve(value=value)


def _checked(name: str, value: str, kinds: set[Any]) -> str:
    """A value as typed, of a path with ~ expanded.

    Raises:
        InputError: it is empty, holds control characters, or isn't the whole number or the path that it should be.
    """
    if not value.strip():
        raise InputError(f"{name} is empty, as a variable that isn't set: give a value, or leave it out")
    if re.search(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]", value):
        raise InputError(f"{name} {value!r} holds what can't be printed: give letters, digits and signs")
    if int in kinds and not (NoneType in kinds and value == "none"):
        if not re.fullmatch(r"[+-]?[0-9]+", value):
            raise InputError(f"{name} {value} is no whole number: give one such as 2")
        if abs(int(value[:99])) > MOST:
            raise InputError(f"{name} {value[:99]} is too large: give a whole number up to {MOST}")
    return str(local_path(value, name)) if Path in kinds else value


def _kinds(hint: Any) -> set[Any]:
    """A type, and those that it is made of."""
    return {hint}.union(*map(_kinds, get_args(hint)))


def run(app: App, tokens: list[str] | None = None) -> NoReturn:
    """Parse, call the command, and leave the process with the exit code it returns.

    Exit codes: what the command returned (0 if nothing), 1 for a failure at run time, 2 for bad input, 130 for Ctrl-C
    or another request to end.
    """
    with _requests_as_ctrl_c(), _outputs():
        code = _exit_code(lambda: app(tokens, exit_on_error=False, print_error=False))
    sys.exit(code)


def this_command() -> str:
    """What to type to start this process once more, secrets aside."""
    return "the same command" if "LOCAL_RANK" in os.environ else shlex.join(map(hide_secrets, sys.orig_argv))


def outlive_readers() -> None:
    """From now on the command goes on when nobody reads its output any more; it says so on stderr."""
    Output.ends_with_reader = False


class Output(io.FileIO):
    """stdout or stderr, whose other end may go away: a pipe's reader, a terminal."""

    ends_with_reader = True
    """Whether that ends the command, without a word as with other tools."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            if self.fileno() == 1:
                if Output.ends_with_reader:
                    if error.errno == errno.EPIPE:
                        raise SystemExit(NOBODY_READS) from None
                    raise OSError(error.errno, error.strerror, "stdout") from None
                print(f"stdout is closed ({error.strerror}); this goes on and keeps what it does", file=sys.stderr)
            return len(data)


@contextmanager
def _outputs() -> Iterator[None]:
    """Has sys.stdout and sys.stderr end as `Output` does, and say what `Spoken` does."""
    Output.ends_with_reader = True
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(_with_output, before)
    try:
        yield
    finally:
        try:
            sys.stdout.flush()
        finally:
            sys.stdout, sys.stderr = before


def _with_output(stream: TextIO | None) -> TextIO:
    if stream is None:
        return open(os.devnull, "w")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    with suppress(OSError):  # a test's
        output = Output(stream.fileno(), "wb", closefd=False)
        unbuffered = stream.write_through
        return Spoken(
            output if unbuffered else io.BufferedWriter(output),
            stream.encoding,
            stream.errors,
            line_buffering=stream.line_buffering,
            write_through=unbuffered,
        )
    return stream


@contextmanager
def _requests_as_ctrl_c() -> Iterator[None]:
    """SIGTERM and SIGHUP end a command as Ctrl-C does, with what it does at its end, unless they are ignored."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        if frame is not None and "importlib" in frame.f_code.co_filename:  # in its callbacks it would be ignored
            threading.Timer(0.05, lambda: os.kill(os.getpid(), number)).start()
            return
        raise KeyboardInterrupt

    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP) if in_main_thread}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _exit_code(call: Callable[[], Any]) -> int:
    try:
        code = call()
    except (CycloptsError, InputError) as error:
        return _complain(str(error), 2)
    except RunInterruptedError as error:
        return _say(f"{error}. To go on: {this_command()}", INTERRUPTED)
    except VitTrainerError as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        return _say("interrupted", INTERRUPTED)
    except Exception as error:
        # An object store's errors have no number.
        if isinstance(error, OSError) and error.errno in (None, *REFUSED):
            where = f" ({error.filename})" if error.filename else ""
            return _complain(
                f"{reason_of(error)}{where}: what was kept before is there, and the same command goes on once that is "
                "mended",
                1,
            )
        if _is_first_to_end():
            raise
        return 1
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    return _say(f"error: {' '.join(message.split())}", code)


def _say(line: str, code: int) -> int:
    if _is_first_to_end():
        print(line, file=sys.stderr)
    return code


def _is_first_to_end() -> bool:
    """Whether this process, of several of a launcher's, is to say why: the others fail of having lost it."""
    if "LOCAL_RANK" not in os.environ:
        return True
    if "torch.distributed" in sys.modules:
        from torch import distributed

        if distributed.is_initialized():
            with suppress(RuntimeError):  # the launcher is gone
                return bool(distributed.distributed_c10d._get_default_store().add("has_failed", 1) == 1)
    if os.environ["LOCAL_RANK"] == "0":
        return True
    with suppress(KeyboardInterrupt):
        time.sleep(SECONDS_TO_SPEAK)
    return False
