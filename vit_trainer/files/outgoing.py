"""Outgoing: text that leaves this process, to a file, a server or a screen: without secrets and control characters."""

import re
import shlex
import sys
from collections.abc import Sequence
from functools import lru_cache
from io import TextIOWrapper
from typing import Any, TextIO
from urllib.parse import unquote

DATABASES = ("postgresql", "postgres", "mysql", "mariadb", "mssql", "oracle", "cockroachdb", "sqlite")
"""Schemes of databases, whose users have names that help and passwords apart."""
SHOWN = {"region", "scheme", "endpoint_override", "allow_bucket_creation", "allow_bucket_deletion"}
SHOWN |= {"sslmode", "ssl", "host", "port", "charset", "driver", "mode"}
SHOWN |= {"workflowType", "viewStateShareKey", "compareRunsMode"}
"""What of a URL's query is no secret, of buckets, databases and MLflow's page."""
URL = re.compile(r"""\b[a-z][a-z0-9+.-]{0,30}://[^\s"'<>\\]+""", re.IGNORECASE)
TOLD = re.compile(r"""(--notify(?:=|\s+)['"]?\w+://)([^\s"'<>\\]+)""")
"""A web address whose path is a password, as those of chat services are."""


def hide_secrets(text: str, arguments: Sequence[str] | None = None) -> str:
    """A text in which no URL holds what opens something: passwords, tokens, keys, values of queries.

    >>> hide_secrets("--tracking-uri postgresql://me:secret@host/mlflow --notify https://chat.com/T01/x", [])
    '--tracking-uri postgresql://me:***@host/mlflow --notify https://chat.com/***'

    Args:
        arguments: words of a command line: their secrets are found wherever they stand, whatever characters they are
            made of; this process's unless given.
    """
    for secret, shown in _known(tuple(sys.argv[1:] if arguments is None else arguments)):
        text = secret.sub(shown.replace("\\", r"\\"), text)
    if "://" not in text:
        return text
    text = TOLD.sub(lambda match: match[1] + _without_path(match[2]), text)
    return URL.sub(lambda match: _hidden(match[0]), text)


def printable(text: str, keep: str = "\n\t") -> str:
    r"""A text that moves no cursor, colours nothing, and is in the order in which it is read.

    >>> printable("runs/\x1b[2Ja\u202eb"), printable("two\nlines", keep="")
    ('runs/\\x1b[2Ja\\u202eb', 'two\\nlines')

    Args:
        keep: control characters that stay.
    """
    return CONTROL.sub(lambda match: match[0] if match[0] in keep else ascii(match[0])[1:-1], text)


CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def outgoing(text: str, keep: str = "\n\t") -> str:
    """`hide_secrets` and `printable`."""
    return printable(hide_secrets(text), keep)


def shown_command() -> str:
    """This process's command line as for a shell, as others may see it."""
    return shlex.join(["python", *map(hide_secrets, sys.argv)])


class Spoken(TextIOWrapper):
    """stdout or stderr as everyone prints to them: without secrets, and with no escapes but those of rich."""

    @property
    def rich_proxied_file(self) -> "_Drawn":
        """What rich draws on in our place."""
        return _Drawn(self)

    def write(self, text: str) -> int:
        super().write(outgoing(text.replace("\r\n", "\n").replace("\r", "\n")))
        return len(text)


class _Drawn:
    """A `Spoken` whose control characters pass."""

    def __init__(self, spoken: Spoken) -> None:
        self._spoken = spoken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._spoken, name)

    def write(self, text: str) -> int:
        return TextIOWrapper.write(self._spoken, hide_secrets(text))


def canvas(stream: TextIO | None) -> Any:
    """What a rich Console is to draw on in the place of sys.stdout or sys.stderr; None: that as it is."""
    return getattr(stream, "rich_proxied_file", None)


@lru_cache(maxsize=8)
def _known(arguments: tuple[str, ...]) -> list[tuple[re.Pattern[str], str]]:
    """What to replace in any text, and by what: the longest first."""
    found = {}
    for before, word in zip(("", *arguments), arguments, strict=False):
        url = re.search(r"[a-zA-Z][\w+.-]*://.*", word, re.DOTALL)
        if url is None:
            continue
        scheme, _, rest = url[0].partition("://")
        hidden = _hidden(url[0])
        if before == "--notify" or word.startswith("--notify="):
            hidden = f"{scheme}://{_without_path(rest)}"
        if hidden != url[0]:
            found[url[0]] = hidden
        # A password with @, a space, a slash: others take what is after it for the host, and say so.
        userinfo = _userinfo(scheme, rest)
        for each in (userinfo, unquote(userinfo)):
            tails = [each[match.end() :] for match in re.finditer("[:@]", each)]
            found |= {f"{tail}@": "***@" for tail in tails if tail}
    longest_first = sorted(found.items(), key=lambda item: -len(item[0]))
    return [(_pattern(secret), shown) for secret, shown in longest_first]


def _pattern(secret: str) -> re.Pattern[str]:
    """What to look for; a short one is none inside a word: the password a is not in maria@host."""
    return re.compile((r"(?<!\w)" if len(secret) < 5 else "") + re.escape(secret))


def _hidden(url: str) -> str:
    """One URL without its secrets."""
    scheme, _, rest = url.partition("://")
    userinfo = _userinfo(scheme, rest)
    user = ""
    if userinfo:
        if re.search(r"\?.*=", userinfo):  # is the @ of the query's or of a password's? Both may be secret
            return f"{scheme}://***"
        rest = rest[len(userinfo) + 1 :]
        name, colon, _ = userinfo.partition(":")
        is_name = scheme.lower().partition("+")[0] in DATABASES and re.fullmatch(r"[\w.-]*", name)
        user = f"{name}:***@" if is_name and colon else f"{name}@" if is_name else "***@"
    place, mark, query = rest.partition("?")
    end = re.search(r"[).,:;]*$", query)
    assert end is not None
    if mark and scheme.lower() != "file":
        query = "&".join(map(_hidden_value, query[: end.start()].split("&"))) + end[0]
    return f"{scheme}://{user}{place}{mark}{query}"


def _hidden_value(pair: str) -> str:
    name, _, value = pair.partition("=")
    if name.removeprefix("amp;") in SHOWN and "@" not in unquote(value):
        return pair
    return f"{name}=***" if value else "***" if name else ""


def _userinfo(scheme: str, rest: str) -> str:
    """Of a URL what is before the host, whatever characters a password is made of; empty if there is none."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if not authority or "@" not in rest:
        return ""
    is_database = scheme.lower().partition("+")[0] in DATABASES
    if not is_database and ("@" in authority or re.fullmatch(r"[^:]*(:\d*)?|\[.*", authority)):
        return authority.rpartition("@")[0]
    return rest.rpartition("@")[0]


def _without_path(rest: str) -> str:
    """What of a web address without its scheme says whose it is, no more."""
    host = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return f"{'***@' if '@' in host else ''}{host.rpartition('@')[2]}" + ("/***" if rest != host else "")
