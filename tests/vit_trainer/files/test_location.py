"""What was typed for a place; tests/vit_trainer/test_bad_command_lines.py has what is refused."""

from pathlib import Path

import pytest

from vit_trainer.files.location import folder_location, local_path, split_uri
from vit_trainer.files.storage import Storage
from vit_trainer.tracking.store import require_store


def test_places_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / "link").symlink_to(tmp_path / "cwd")
    for given, expected in {
        "results": tmp_path / "cwd" / "results",
        "./gs:bucket": tmp_path / "cwd" / "gs:bucket",
        "run-10:30": tmp_path / "cwd" / "run-10:30",
        "../link/x": tmp_path / "cwd" / "x",
        "~": tmp_path / "home",
        "~/a b": tmp_path / "home" / "a b",
        f"file://{tmp_path}/a%20b%3F": tmp_path / "a b?",
        f"file://localhost{tmp_path}/x": tmp_path / "x",
        "s3://bucket/a?region=eu-west-1": "s3://bucket/a?region=eu-west-1",
    }.items():
        assert folder_location(given) == expected
        assert not isinstance(expected, Path) or folder_location(str(expected)) == expected
    assert local_path("~/x.npz", "checkpoint") == tmp_path / "home" / "x.npz"
    assert local_path("x.npz", "checkpoint") == Path("x.npz")


@pytest.mark.parametrize("name", ["a b", "a#b", "ä", "a;b&c=d", "a'b", "a:b@c"])
def test_mlflow_finds_its_file_in_a_storage_of_any_other_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    require_store(Storage(tmp_path / name).tracking_uri)
    require_store(Storage(f"file://{tmp_path}/a%20b/../{name.replace('#', '%23')}").tracking_uri)


def test_addresses_have_their_parts() -> None:
    assert split_uri("http://[::1]:5000/a", "notify").port == 5000
    assert split_uri("sqlite:////a folder/ä.db", "tracking-uri").path == "//a folder/ä.db"
