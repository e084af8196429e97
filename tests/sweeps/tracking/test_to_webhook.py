"""Notifications to real HTTP servers, one of which never answers."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from sweeps.options import SweepOptions
from sweeps.tracking import to_webhook
from sweeps.tracking.to_webhook import Notifier
from vit_trainer.errors import InputError


@pytest.fixture
def server() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Its address, and what it has been told."""
    told: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}/hook", told
        http.shutdown()
        thread.join()


def test_events_arrive_in_order_with_their_facts(server: tuple[str, list[dict[str, Any]]]) -> None:
    url, told = server
    notifier = Notifier(url, "paper_grid-mini", "results")
    notifier.send("cell failed", "no trial of a cell finished", {"cell": "a cell"})
    notifier.send("finished", "finished (3 finished)")
    notifier.close()
    assert notifier.failure is None
    assert [each["event"] for each in told] == ["cell failed", "finished"]
    assert told[0]["cell"] == "a cell"
    assert told[1]["text"] == "paper_grid-mini: finished (3 finished)"
    assert {each["storage"] for each in told} == {"results"}


def test_a_server_that_never_answers_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert to_webhook.SECONDS_TO_SEND_THE_LAST <= 2
    monkeypatch.setattr(to_webhook, "SECONDS_TO_SEND_THE_LAST", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        notifier = Notifier(f"http://127.0.0.1:{silent.getsockname()[1]}/", "sweep", "results")
        start = time.monotonic()
        for _ in range(100):
            notifier.send("cell failed", "no trial finished")
        assert time.monotonic() - start < 0.5
        notifier.close()
        assert time.monotonic() - start < 0.2 + 2
        assert notifier.failure is not None


def test_a_server_that_is_gone_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}/"
    notifier = Notifier(url, "sweep", "results")
    notifier.send("finished", "finished")
    notifier.close()
    assert notifier.failure is not None
    assert "refused" in notifier.failure
    assert "\n" not in notifier.failure


def test_rubbish_is_said_once_and_later_events_are_told_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    answers = [
        b"\x1b[2Jno HTTP\r\n\r\n",
        b"\x1b[2Jno HTTP\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    ]
    told: list[bytes] = []

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                _, _, content = connection.recv(65536).partition(b"\r\n\r\n")
                told.append(content or connection.recv(65536))
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        notifier = Notifier(f"http://127.0.0.1:{listener.getsockname()[1]}/t0KeN", "sweep", "s3://KEY:t0KeN@bucket/x")
        for _ in answers:
            notifier.send("cell failed", "no trial finished")
        notifier.close()
        thread.join()
    assert notifier.failure is None
    assert len(told) == len(answers)
    assert all(b"t0KeN" not in content and b'"s3://***@bucket/x"' in content for content in told)
    first, second = capfd.readouterr().err.splitlines()
    assert first == "--notify 127.0.0.1 was not told of 'cell failed': BadStatusLine: \\x1b[2Jno HTTP"
    assert "RemoteDisconnected" in second


def test_without_a_url_nobody_is_told() -> None:
    notifier = Notifier(None, "sweep", "results")
    notifier.send("finished", "finished")
    notifier.close()
    assert notifier.failure is None


@pytest.mark.parametrize("url", ["", "host/path", "ftp://host/path", "https://"])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(InputError, match="is no web address: give one such as https"):
        SweepOptions(notify=url)
