"""Private: what in a storage's texts is nobody's business: secrets, where folders lie, what hosts are called."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

from vit_trainer.files.outgoing import hide_secrets
from vit_trainer.files.schema import json_of

PART = r"""[^/\s"'`<>|:,;()\[\]{}]+"""
FOLDERS = re.compile(rf"(?:(?<=://)/*|(?<![\w.~/]))/(?!/)(?:(?:home|Users)/{PART}/?|root\b/?|{PART}/)(?:{PART}/)*")
"""Of an absolute path all but the file's name."""
OURS = re.compile(r"(?:vit_trainer|sweeps|site-packages)/.*")
"""What of a path says where in the code, and may stay."""
KEYS = re.compile(
    r"\b(?:AKIA[0-9A-Z]{16}|gh[opsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{20,}|hf_\w{20,}|sk-[\w-]{20,}|"
    r"xox[a-z]-[\w-]{10,})|-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END|\Z)"
)
"""Keys that are known by their form."""
IS_SECRET = re.compile("TOKEN|SECRET|PASSWORD|CREDENTIAL|(?:API|ACCESS)_?KEY")
"""Names of environment variables whose values are."""
HOSTS = re.compile(rb'"(?:host|node)": "([^"\\]+)"')
SPOKEN = ("cause", "traceback", "note", "line", "failures")
"""Where people read, and hosts are named among other words."""


def without_secrets(text: str) -> str:
    """A text without what opens something: in URLs, of known forms, and in this process's environment."""
    for name, value in os.environ.items():
        if IS_SECRET.search(name) and len(value) >= 8:
            text = text.replace(value, "***")
    return KEYS.sub("***", hide_secrets(text))


def without_folders(text: str) -> str:
    """A text whose absolute paths don't say where they lie.

    >>> without_folders("--storage /home/me/results: /opt/me/code/vit_trainer/train.py, s3://bucket/me, 1/2")
    '--storage .../results: .../vit_trainer/train.py, s3://bucket/me, 1/2'
    """
    text = FOLDERS.sub(lambda match: f".../{ours[0] if (ours := OURS.search(match[0])) else ''}", text)
    return re.sub(r"torchinductor_[\w.-]+", "torchinductor", text)  # whose user's it is


class Private:
    """What is hidden of files that belong together: what was the same name is so afterwards, in other bundles too."""

    def __init__(self, contents: Iterable[bytes], places: Mapping[str, str]) -> None:
        """
        Args:
            contents: of all of these files, for the hosts that they name.
            places: what to write for words wherever they stand, such as a folder of classes its id.
        """
        self._places = sorted(places.items(), key=lambda item: -len(item[0]))
        found = {name.decode(errors="replace") for content in contents for name in HOSTS.findall(content)}
        self._hosts = {name: _host(name) for name in found if name != "localhost"}
        words = "|".join(re.escape(name) for name in sorted(self._hosts, key=len, reverse=True) if len(name) > 3)
        self._words = re.compile(rf"(?<![\w.-])(?:{words or '(?!)'})(?![\w-])")
        self.environments: dict[str, str] = {}
        """What environments are called now, by what they were called: by hashes of what has changed."""

    def content(self, name: str, content: bytes) -> bytes:
        """A .json or .jsonl file without what is private; nothing else in it changes."""
        if name.endswith(".json"):
            return self._json(content, 1)
        return b"\n".join(self._json(line, None) for line in content.split(b"\n"))

    def _json(self, content: bytes, indent: int | None) -> bytes:
        try:
            value = json_of(content)
        except ValueError:  # empty or damaged
            return self._text(content.decode(errors="surrogateescape"), "line").encode(errors="surrogateescape")
        public = self._value(value, "")
        return content if public == value else json.dumps(public, indent=indent).encode()

    def _value(self, value: Any, key: str) -> Any:
        if isinstance(value, dict):
            return {name: self._value(each, name) for name, each in value.items()}
        if isinstance(value, list):
            return [self._value(each, key) for each in value]
        return self._text(value, key) if isinstance(value, str) else value

    def _text(self, text: str, key: str) -> str:
        if key in ("host", "node"):
            return self._hosts.get(text, text)
        if key == "environment" and text in self.environments:
            return self.environments[text]
        for place, name in self._places:
            text = text.replace(place, name)
        if key in SPOKEN:
            text = self._words.sub(lambda match: self._hosts[match[0]], text)
        return without_folders(without_secrets(text))


def _host(name: str) -> str:
    """The same for the same name."""
    known = re.fullmatch("host-[0-9a-f]{6}", name)
    return name if known else f"host-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
