"""The pages that people read: links lead somewhere, and every command that stands there is one."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES += [ROOT / folder / "README.md" for folder in ("clusters", "benchmarks", "results", "results/miniature")]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def prose(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What a link to a page can end with, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)\s]+)\)|(?:src|srcset)=\"([^\"]+)\"", prose(page))
    lost = []
    for target in (first or second for first, second in targets):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        there = page.parent / path if path else page
        if not there.exists() or (anchor and anchor not in anchors(there)):
            lost.append(target)
    assert not lost


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command of ours on a page, in blocks of the terminal and within lines."""
    text = page.read_text()
    blocks = "\n".join(re.findall(r"^ *```sh\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)).replace("\\\n", " ")
    inline = [" ".join(found.split()) for found in re.findall(r"`(python [^`]+)`", prose(page))]
    for line in [*blocks.splitlines(), *inline]:
        found = re.search(r"(?:^|\s)python (-m vit_trainer|sweeps/\w+\.py|benchmarks/\w+\.py|docs/\w+\.py)(.*)$", line)
        if found:
            words = [*found[1].split(), *shlex.split(found[2], comments=True)]
            own = words.index("--") if "--" in words else len(words)
            yield words[:own]
            if words[own + 1 :]:  # the sweep that launch.py is to bring to a cluster
                yield [f"sweeps/{words[own + 1]}", *words[own + 2 :]]


def flags_of(command: list[str]) -> set[str]:
    """What `--help` of a command names."""
    done = subprocess.run(
        [sys.executable, *command, "--help"], check=False, capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"--[a-z][\w-]*", done.stdout))


@pytest.mark.slow
def test_every_command_on_a_page_exists_and_so_do_its_flags() -> None:
    used: dict[tuple[str, ...], set[str]] = {}
    for page in PAGES:
        for words in commands(page):
            size = 3 if words[0] == "-m" else 1
            used.setdefault(tuple(words[:size]), set()).update(
                word.partition("=")[0] for word in words[size:] if re.fullmatch(r"--[a-z][\w-]*(=.*)?", word)
            )
    assert len(used) > 20
    unknown = {}
    for command, flags in used.items():
        if "…" in command or command == ("sweeps/warmup.py",):  # the latter is one that the reader writes
            continue
        if missing := flags - flags_of(list(command)) if command[0] != "docs/pictures.py" else flags:
            unknown[command] = missing
    assert not unknown
