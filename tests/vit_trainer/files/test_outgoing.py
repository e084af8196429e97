"""What leaves this process: URLs without secrets, texts without control characters."""

import io
import json
import os
import subprocess
import sys

import pytest
from rich.console import Console

from vit_trainer.files.outgoing import Spoken, canvas, hide_secrets, printable

TOKEN = "t0KeN"
URLS = {
    f"postgresql://me:{TOKEN}@host/db": "postgresql://me:***@host/db",
    f"postgresql+psycopg2://me:a@{TOKEN}@host:5432/db": "postgresql+psycopg2://me:***@host:5432/db",
    f"postgresql://me:a/b?{TOKEN}#c@host/db": "postgresql://me:***@host/db",
    f"postgresql://host/db?user=me&password={TOKEN}&sslmode=require": (
        "postgresql://host/db?user=***&password=***&sslmode=require"
    ),
    f"postgresql://host/db?password=a@{TOKEN}": "postgresql://***",
    f"mysql+pymysql://me:{TOKEN} b@host/db": "mysql+pymysql://me:***@host/db",
    "postgresql://me@host/db": "postgresql://me@host/db",
    f"redis://:{TOKEN}@host/0": "redis://***@host/0",
    "sqlite:////folder/a@b/mlflow.db": "sqlite:////folder/a@b/mlflow.db",
    f"https://{TOKEN}@host:5000/mlflow": "https://***@host:5000/mlflow",
    f"https://me:{TOKEN}@host": "https://***@host",
    f"http://[::1]:5000/?token={TOKEN}": "http://[::1]:5000/?token=***",
    f"http://host/path?{TOKEN}": "http://host/path?***",
    "http://127.0.0.1:5000/@me": "http://127.0.0.1:5000/@me",
    f"s3://{TOKEN}:{TOKEN}@bucket/folder?region=eu-west-1": "s3://***@bucket/folder?region=eu-west-1",
    f"s3://KEY:a/{TOKEN}+b@bucket/folder": "s3://***@bucket/folder",
    f"s3://bucket?endpoint_override=http%3A%2F%2Fme%3A{TOKEN}%40host": "s3://bucket?endpoint_override=***",
    "s3://bucket/a@b?endpoint_override=127.0.0.1%3A9000": "s3://bucket/a@b?endpoint_override=127.0.0.1%3A9000",
}


@pytest.mark.parametrize("url", URLS)
def test_what_is_secret_in_a_url(url: str) -> None:
    shown = URLS[url]
    for arguments in (["--optuna-storage", url], [f"--tracking-uri={url}"]):
        assert hide_secrets(url, arguments) == shown
        assert hide_secrets(f"MLflow at {url} can't be used", arguments) == f"MLflow at {shown} can't be used"
        assert hide_secrets(json.dumps({"note": f"({url})"}), arguments) == json.dumps({"note": f"({shown})"})
    if " " not in url:  # then others' are known too
        assert hide_secrets(f"MLflow at {url} went", []) == f"MLflow at {shown} went"
    assert hide_secrets(shown, []) == shown


def test_of_a_web_address_that_is_told_the_path_is_secret_too() -> None:
    url = f"https://hooks.chat.com/services/{TOKEN}/{TOKEN}?key={TOKEN}"
    for arguments in (["--notify", url], [f"--notify={url}"]):
        assert hide_secrets(f"nobody answers at {url}", arguments) == "nobody answers at https://hooks.chat.com/***"
        assert hide_secrets(" ".join(arguments), []) == " ".join(arguments).replace(url, "https://hooks.chat.com/***")
    assert hide_secrets(f"--notify '{url}' --quiet", []) == "--notify 'https://hooks.chat.com/***' --quiet"


def test_what_a_driver_takes_for_the_host_is_known_as_a_password() -> None:
    arguments = ["--optuna-storage", f"postgresql://me:a@{TOKEN} b@host/db"]
    assert hide_secrets(f'no address for "{TOKEN} b@host"', arguments) == 'no address for "***@host"'
    assert hide_secrets(f"no address for a@{TOKEN}%20b@host", [arguments[1].replace(" ", "%20")]).endswith(" ***@host")


@pytest.mark.parametrize("character", ["\x1b", "\x07", "\r", "\x7f", "\x9b", "\u202e", "\u2028", "\ud800"])
def test_no_control_character_leaves(character: str) -> None:
    assert printable(f"a{character}[31mb\tc\nd").isprintable() is False  # tab and newline
    assert printable(f"a{character}[31mb", keep="").isprintable()
    assert printable("Größe 中 🙂") == "Größe 中 🙂"


def test_rich_draws_where_others_print_without_escapes() -> None:
    stream = Spoken(io.BytesIO(), "utf-8", line_buffering=True)
    print("\x1b[31mred", f"https://{TOKEN}@host", file=stream)
    Console(file=canvas(stream), force_terminal=True, color_system="standard").print(
        "[red]red[/] ftp://a:b@host", highlight=False
    )
    assert stream.buffer.getvalue().decode() == (  # type: ignore[attr-defined]
        "\\x1b[31mred https://***@host\n\x1b[31mred\x1b[0m ftp://***@host\n"
    )


def test_every_command_speaks_so() -> None:
    code = (
        "import sys; from vit_trainer.command_line import new_app, run; app = new_app(''); "
        "app.default(lambda *, url: (print(url), sys.stderr.write('\\x1b[2J\\n'), 0)[2]); run(app)"
    )
    command = [sys.executable, "-c", code, "--url", f"https://{TOKEN}@host"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
    assert (done.stdout, done.stderr) == ("https://***@host\n", "\\x1b[2J\n")


def test_a_short_password_is_hidden_where_it_stands_alone() -> None:
    arguments = ["--tracking-uri", "postgresql://me:p@ss@host/db"]
    assert hide_secrets('no host "ss@host" and me:p@ss@host', arguments) == 'no host "***@host" and me:***@host'
    assert (
        hide_secrets("maria@host, boss@host", ["--tracking-uri", "postgresql://me:a@host"]) == "maria@host, boss@host"
    )
    assert hide_secrets("boss@host", arguments) == "boss@host"
