"""Which Ray is meant: every form of RAY_ADDRESS, and what `ray start` leaves behind."""

import os
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.cluster.address import ELSE_OWN, meant_cluster
from vit_trainer.errors import InputError


@pytest.mark.parametrize("given", [None, "", "  ", "auto", "local"])
def test_nothing_named_is_nothing_joined(given: str | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS")
    if given is not None:
        monkeypatch.setenv("RAY_ADDRESS", given)
    assert meant_cluster() is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("127.0.0.1", "no host:port"),
        ("foo bar", "no host:port"),
        ("foo bar:6379", "no host:port"),
        (":6379", "no host:port"),
        ("head:", "no host:port"),
        ("head:gcs", "no host:port"),
        ("head:0", "no host:port"),
        ("head:65536", "no host:port"),
        ("head:٦٣٧٩", "no host:port"),
        ("::1", "no host:port"),
        ("::1:6379", "no host:port"),
        ("[::1]", "no host:port"),
        ("[head]:6379", "no host:port"),
        ("user@head:6379", "no host:port"),
        ("ray://head:10001", "is for Ray's client, on which no sweep runs: `ray job submit` it there"),
        ("http://127.0.0.1:8265", "is for `ray job submit`: give the cluster's host:port"),
        ("https://head", "is for `ray job submit`: give the cluster's host:port"),
        ("127.0.0.1:1", "nothing answers at RAY_ADDRESS 127.0.0.1:1 (Connection refused)"),
        ("[::1]:1", "nothing answers at RAY_ADDRESS [::1]:1 ("),
        ("no-such-host.invalid:6379", "nothing answers at RAY_ADDRESS no-such-host.invalid:6379 ("),
    ],
)
def test_an_address_that_is_none_says_so_in_seconds(given: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", given)
    start = time.monotonic()
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        meant_cluster()
    assert time.monotonic() - start < 10
    assert ELSE_OWN in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.fixture
def deaf() -> Iterator[str]:
    """The address of something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def announce(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The file in which `ray start` announces a cluster."""
    monkeypatch.delenv("RAY_ADDRESS")
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "ray").mkdir()
    return tmp_path / "ray" / "ray_current_cluster"


def test_what_is_announced_and_answers_is_meant(announce: Path, two_slots: str) -> None:
    announce.write_text(two_slots + "\n")
    assert meant_cluster() == two_slots


@pytest.mark.slow
def test_what_is_announced_and_is_no_ray_is_named_once(
    announce: Path, deaf: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    announce.write_text(deaf)
    assert [meant_cluster(), meant_cluster()] == [None, None]
    said = f"Not joined: the Ray cluster {deaf!r} that {announce} announces (what listens there is no Ray)\n"
    assert capsys.readouterr().err == said
    monkeypatch.setenv("RAY_ADDRESS", deaf)
    with pytest.raises(InputError, match="what listens there is no Ray"):
        meant_cluster()


def test_the_announcement_outlives_a_head_that_was_killed(announce: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce.write_text("127.0.0.1:1")
    assert meant_cluster() is None
    assert "(Connection refused)" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes another user's files")
def test_another_users_cluster_is_named_and_not_joined(
    announce: Path, two_slots: str, capsys: pytest.CaptureFixture[str]
) -> None:
    announce.write_text(two_slots)
    os.chown(announce, 12345, 12345)
    assert meant_cluster() is None
    assert f"it is another user's; RAY_ADDRESS={two_slots} joins it" in capsys.readouterr().err
