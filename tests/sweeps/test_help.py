"""--help: every flag under its heading, in words of whoever types it, and examples that can be typed."""

import re
from importlib import import_module
from shlex import split
from typing import Any

import pytest

from sweeps.__main__ import QUESTIONS, TOOLS, command_module
from vit_trainer.__main__ import app as trainer
from vit_trainer.command_line import GROUPS, run

LEAKS = r"None|\bTrue\b|\bFalse\b|\(\)|\['|\d\.0\]|Config\.|\.py`"
"""Python's words that aren't a user's."""


def help_of(app: Any, capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit):
        run(app, [*command, "--help"])
    return capsys.readouterr().out


def examples(text: str, name: str) -> list[list[str]]:
    return [split(line, comments=True)[len(name.split()) :] for line in re.findall(rf"^  ({name} .*)", text, re.M)]


@pytest.mark.parametrize("name", [*QUESTIONS, *TOOLS])
def test_help_of_sweeps(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    app = import_module(command_module(name)).app
    text = help_of(app, capsys)
    assert re.findall(LEAKS, text) == []
    assert max(map(len, text.splitlines())) <= 80
    assert "╭─ Parameters ─" not in text or name in TOOLS
    for argument in app.assemble_argument_collection(parse_docstring=True):
        assert argument.name == "*" or argument.parameter.help, f"{argument.name} of {name} says nothing"
    if name in QUESTIONS:
        assert [text.index(f"╭─ {group.name} ─") for group in GROUPS] == sorted(
            text.index(f"╭─ {group.name} ─") for group in GROUPS
        )
        typed = examples(text, app.name[0])
        assert len(typed) > 1
        for flags in typed:
            app.parse_args(flags, exit_on_error=False, print_error=False)


def test_help_of_train(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(trainer, capsys, "train")
    assert re.findall(LEAKS, text) == []
    assert re.findall("╭─ ([A-Z][a-z ]+) ─", text) == ["What", "Where", "Execution"]
    typed = examples(text, "python -m vit_trainer")
    assert len(typed) > 1
    for flags in typed:
        trainer.parse_args(flags, exit_on_error=False, print_error=False)


def test_an_unknown_command_is_answered_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run(import_module("sweeps.__main__").app, ["gird"])
    assert left.value.code == 2
    assert 'Did you mean "grid"?' in capsys.readouterr().err
