"""Spot notices: both clouds' are heard, from servers that speak as theirs do."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sweeps.machines import spot_notices
from sweeps.machines.spot_notices import wait_for_notice
from tests.sweeps.metadata_server import MetadataServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[MetadataServer]:
    monkeypatch.setattr(spot_notices, "SECONDS_BETWEEN_LOOKS", 0.05)
    with MetadataServer() as server:
        yield server
        server.shutdown()


@pytest.fixture(params=["aws", "google"])
def cloud(request: Any, server: MetadataServer, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # metadata are asked for without one
    if request.param == "aws":
        monkeypatch.setenv(spot_notices.AWS, f"http://{server.address}")
    else:
        monkeypatch.setenv(spot_notices.GOOGLE, server.address)
    return str(request.param)


def wait_for_requests(server: MetadataServer, count: int) -> None:
    deadline = time.monotonic() + 20
    while len(server.requests) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_notice_is_heard_whenever_it_comes(cloud: str, server: MetadataServer) -> None:
    heard: list[float | None] = []
    waits = threading.Thread(target=lambda: heard.append(wait_for_notice()))
    waits.start()
    wait_for_requests(server, 2 if cloud == "google" else 3)  # it has been told that there is none
    assert not heard
    server.take_back(seconds=100)
    waits.join(timeout=5)
    assert not waits.is_alive()
    (seconds,) = heard
    assert seconds is not None
    assert seconds == 30 if cloud == "google" else 95 < seconds <= 100


def test_one_that_is_there_already_is_heard_at_once_and_through_an_outage(cloud: str, server: MetadataServer) -> None:
    server.take_back()
    assert wait_for_notice() is not None
    server.is_down, before = True, len(server.requests)
    heard: list[float | None] = []
    waits = threading.Thread(target=lambda: heard.append(wait_for_notice()))
    waits.start()
    wait_for_requests(server, before + 4)
    assert not heard
    server.is_down = False
    waits.join(timeout=5)
    assert heard


@pytest.mark.parametrize("vendor", ["LENOVO\n", None])
def test_outside_of_the_clouds_nothing_is_asked(
    vendor: str | None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "sys_vendor"
    if vendor is not None:
        path.write_text(vendor)
    monkeypatch.setattr(spot_notices, "VENDOR", path)
    for name in (spot_notices.AWS, spot_notices.GOOGLE):
        monkeypatch.delenv(name, raising=False)
    assert wait_for_notice() is None
