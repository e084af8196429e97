"""Runs a command line built from types: every error of the user's is one line on stderr and exit code 2."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from cyclopts import App, CycloptsError

from vit_trainer.errors import InputError, RunInterruptedError, VitTrainerError

INTERRUPTED = 130
"""Exit code after Ctrl-C or a request to end."""


def new_app(help_text: str, **options: Any) -> App:
    """An empty command line whose errors are raised, so that `run` can print them its way."""
    return App(help=help_text, help_format="plaintext", version_flags=[], result_action="return_value", **options)


def run(app: App, tokens: list[str] | None = None) -> NoReturn:
    """Parse, call the command, and leave the process with the exit code it returns.

    Exit codes: what the command returned (0 if nothing), 1 for a failure at run time, 2 for bad input, 130 for Ctrl-C.
    """
    sys.exit(_exit_code(lambda: app(tokens, exit_on_error=False, print_error=False)))


def _exit_code(call: Callable[[], Any]) -> int:
    try:
        code = call()
    except CycloptsError as error:
        return _complain(str(error), 2)
    except InputError as error:
        return _complain(str(error), 2)
    except RunInterruptedError as error:
        print(f"{error}: the same command goes on from there", file=sys.stderr)
        return INTERRUPTED
    except VitTrainerError as error:
        return _complain(str(error), 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _complain(message: str, code: int) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return code
