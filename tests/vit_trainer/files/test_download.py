import random
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from vit_trainer.errors import CheckpointError, DownloadError, InputError
from vit_trainer.files.download import CHUNK_BYTES, address_of, download
from vit_trainer.files.folder import open_folder

CONTENT = random.Random(0).randbytes(300_000)


class Watcher:
    def __init__(self) -> None:
        self.sizes: list[tuple[int, int | None]] = []

    def waiting(self, path: Path) -> None:
        raise AssertionError("nobody else downloads")

    def received(self, num_bytes: int, total_bytes: int | None) -> None:
        self.sizes.append((num_bytes, total_bytes))


class Only:
    """Accepts files with one content."""

    def __init__(self, content: bytes = CONTENT) -> None:
        self.content = content

    def __call__(self, path: Path, source: str) -> None:
        if path.read_bytes() != self.content:
            raise CheckpointError(f"{source} is the wrong file")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch) -> None:
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new folder" / "file.npz"


def left_beside(path: Path) -> list[str]:
    return sorted(other.name for other in path.parent.iterdir() if other != path and not other.name.endswith(".lock"))


def test_a_file_arrives_whole_and_is_not_asked_for_again(server, path):
    server.content = CONTENT
    watcher = Watcher()
    assert download(f"{server.address}/file.npz", path, check=Only(), watcher=watcher)
    assert path.read_bytes() == CONTENT
    assert left_beside(path) == []
    assert watcher.sizes[0] == (0, len(CONTENT))
    assert watcher.sizes[-1] == (len(CONTENT), len(CONTENT))
    assert not download(f"{server.address}/file.npz", path, check=Only(), watcher=watcher)
    assert len(server.requests) == 1


def test_a_connection_that_breaks_is_gone_on_with(server, path):
    server.content, server.breaks_after = CONTENT, [1000, 70_000]
    assert download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    assert [asked for _, asked in server.requests] == [None, "bytes=1000-", "bytes=71000-"]
    assert path.read_bytes() == CONTENT


def test_the_next_call_goes_on_where_the_last_one_gave_up(server, path):
    server.content, server.breaks_after = CONTENT, [1000, 0]
    with pytest.raises(DownloadError, match=r"broke off after 0\.0 MB .* run the same command again .*file\.npz"):
        download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    assert not path.exists()
    watcher = Watcher()
    assert download(f"{server.address}/f", path, check=Only(), watcher=watcher)
    assert server.requests[-1] == ("/f", "bytes=1000-")
    assert watcher.sizes[0] == (1000, len(CONTENT))
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("knows_if_range", [True, False])
def test_a_file_that_changed_is_not_glued_to_what_is_here(server, path, knows_if_range):
    server.content, server.breaks_after, server.knows_if_range = CONTENT, [1000, 0], knows_if_range
    with pytest.raises(DownloadError):
        download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    changed = CONTENT[::-1]
    server.content, server.etag = changed, '"second"'
    seen: list[bytes] = []
    download(f"{server.address}/f", path, check=lambda file, _: seen.append(file.read_bytes()), watcher=Watcher())
    assert seen == [changed]


def test_a_file_that_changed_without_a_sign_is_downloaded_anew_when_its_check_fails(server, path):
    server.content, server.breaks_after, server.etag = CONTENT, [1000, 0], None
    with pytest.raises(DownloadError):
        download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    server.content = CONTENT[::-1]
    assert download(f"{server.address}/f", path, check=Only(CONTENT[::-1]), watcher=Watcher())
    assert [asked for _, asked in server.requests[-2:]] == ["bytes=1000-", None]


def test_a_file_that_became_shorter_starts_anew(server, path):
    server.content, server.breaks_after = CONTENT, [1000, 0]
    with pytest.raises(DownloadError):
        download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    server.content, server.knows_if_range = CONTENT[:500], False
    assert download(f"{server.address}/f", path, check=Only(CONTENT[:500]), watcher=Watcher())


def test_another_source_does_not_go_on_with_this_one(server, path):
    server.content, server.breaks_after = CONTENT, [1000, 0]
    with pytest.raises(DownloadError):
        download(f"{server.address}/here", path, check=Only(), watcher=Watcher())
    assert download(f"{server.address}/there", path, check=Only(), watcher=Watcher())
    assert server.requests[-1] == ("/there", None)


def test_a_server_without_ranges_starts_anew_and_an_end_is_found(server, path):
    server.content, server.breaks_after, server.knows_ranges = CONTENT, [1000, 500], False
    with pytest.raises(DownloadError, match="broke off"):
        download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    assert download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    assert path.read_bytes() == CONTENT


def test_a_wrong_file_never_gets_the_name(server, path):
    server.content = b"not it"
    with pytest.raises(CheckpointError, match="/f is the wrong file"):
        download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    assert not path.exists()
    assert left_beside(path) == []


def test_a_bad_file_in_place_is_replaced_by_a_good_one_only(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT[:100])
    server.content = b"bad as well"
    with pytest.raises(CheckpointError):
        download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    assert path.read_bytes() == CONTENT[:100]
    server.content = CONTENT
    assert download(f"{server.address}/f", path, check=Only(), watcher=Watcher())
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_a_local_file_is_copied(tmp_path, path, form):
    source = tmp_path / "the source.npz"
    source.write_bytes(CONTENT)
    address = form.format(source.as_uri().removeprefix("file://") if form.startswith("file") else source)
    assert download(address, path, check=Only(), watcher=Watcher())
    assert path.read_bytes() == CONTENT
    assert source.exists()


def test_what_cannot_be_read_is_one_line_that_says_which_file_to_put_where(server, path, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{unused.getsockname()[1]}/f"
        for source, reason in [
            (nobody, "Connection refused"),
            (f"{server.address}/missing", "HTTP 404 Not Found"),
            (str(tmp_path / "nothing"), "No such file or directory"),
            ("http://", "no host given"),
        ]:
            with pytest.raises(DownloadError) as caught:
                download(source, path, check=Only(), watcher=Watcher())
            assert str(caught.value) == f"cannot read {source} ({reason}): put that file at {path}"
    with pytest.raises(
        InputError, match=r"source ftp://host/f cannot be used .*: give a folder, or a URI such as s3://"
    ):
        download("ftp://host/f", path, check=Only(), watcher=Watcher())


def test_an_object_of_a_bucket_is_gone_on_with_unless_it_changed(bucket, path):
    folder, content = open_folder(bucket), 10 * CONTENT
    address = address_of(folder.location, "", "an object.npz")

    class Interrupted(Watcher):
        def received(self, num_bytes: int, total_bytes: int | None) -> None:
            if num_bytes:
                raise KeyboardInterrupt

    for changed in (False, True):
        folder.write("an object.npz", content)
        with pytest.raises(KeyboardInterrupt):
            download(address, path, check=Only(content), watcher=Interrupted())
        if changed:
            content = content[::-1] + b"longer"
            folder.write("an object.npz", content)
        watcher = Watcher()
        assert download(address, path, check=Only(content), watcher=watcher)
        assert watcher.sizes[0] == (0 if changed else CHUNK_BYTES, len(content))
        assert left_beside(path) == []
        path.unlink()
    missing = folder.child("nothing").location
    with pytest.raises(DownloadError) as caught:
        download(missing, path, check=Only(), watcher=Watcher())
    assert str(caught.value) == f"cannot read {missing} (No such file or directory): put that file at {path}"


@pytest.mark.parametrize("code", [403, 407])
def test_a_proxy_that_refuses_is_named_without_its_password(server, path, monkeypatch, code):
    class Refusing(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_error(code)

        do_GET = do_CONNECT

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.delenv("no_proxy")
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        for kind in ("http", "https"):
            monkeypatch.setenv(f"{kind}_proxy", f"http://me:secret@127.0.0.1:{proxy.server_port}/")
            with pytest.raises(DownloadError) as caught:
                download(f"{kind}://data.example/f", path, check=Only(), watcher=Watcher())
            assert str(code) in str(caught.value)
            assert f"through the proxy 127.0.0.1:{proxy.server_port} that {kind.upper()}_PROXY names)" in str(
                caught.value
            )
            assert "secret" not in str(caught.value)
        proxy.shutdown()
        thread.join()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"cannot write to .*file/sub .*: give a folder"):
        download("anything", tmp_path / "file" / "sub" / "x.npz", check=Only(), watcher=Watcher())
