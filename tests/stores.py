"""What MLflow runs on: an empty file, a server that can be killed and come back, and a PostgreSQL cluster; a bucket
with faults.
"""

import functools
import http.client
import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@functools.cache
def _empty_store() -> bytes:
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
        return (Path(folder) / "mlflow.db").read_bytes()


def with_mlflow_tables(storage: Path) -> Path:
    """The storage, with MLflow's file in it as MLflow makes it before the first run, which takes a second each time."""
    storage.mkdir(exist_ok=True)
    (storage / "mlflow.db").write_bytes(_empty_store())
    return storage


class MlflowServer:
    """A real `mlflow server` on a port of its own."""

    def __init__(self, folder: Path, store: str | None = None) -> None:
        self.folder, self.store = folder, store or f"sqlite:///{folder}/mlflow.db"
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.launch()
        self.wait()

    def launch(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(self.port)]
        command += ["--backend-store-uri", self.store, "--artifacts-destination", str(self.folder / "artifacts")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

    def wait(self) -> None:
        """Until it answers."""
        assert self._process is not None
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert self._process.poll() is None, (self.folder / "server.log").read_text()
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=2).read()
                return
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.2)
        raise AssertionError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        """As a power cut would: its workers too."""
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


@contextmanager
def postgresql() -> Iterator[str]:
    """The URI of an empty database in a cluster that is gone afterwards."""
    pytest.importorskip("psycopg2", reason="needs psycopg2-binary")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb")) or [Path(shutil.which("initdb") or "")]
    if not found[-1].name:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    programs = found[-1].resolve().parent
    as_user: list[str] = []
    folder = Path(tempfile.mkdtemp(prefix="postgresql-", dir="/tmp"))
    if os.geteuid() == 0:  # which PostgreSQL refuses to run as
        as_user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        shutil.chown(folder, "nobody", "nogroup")

    def call(*command: str) -> None:
        subprocess.run([*as_user, *command], check=True, capture_output=True, cwd="/", timeout=60)

    data, port = str(folder / "data"), free_port()
    call(str(programs / "initdb"), "--auth=trust", "--username=mlflow", "-D", data)
    options = f"-c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c fsync=off -p {port}"
    call(str(programs / "pg_ctl"), "-D", data, "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
    finally:
        call(str(programs / "pg_ctl"), "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(folder)


class FaultyBucket:
    """In front of an S3 server: passes requests on, or does to them what `fault` says of a method and path.

    503: an answer of that kind; expired: that of a token that has; reset: the connection breaks off in the middle of
    the answer; stall: nothing comes any more.
    """

    def __init__(self, server: str) -> None:
        """server: host:port."""
        self.fault: Callable[[str, str], str] = lambda method, path: ""
        self.requests: list[tuple[str, str]] = []
        """Methods and paths, a range with its bytes."""
        self.over = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                self.raw_requestline = self.rfile.readline(65537)
                if not self.raw_requestline or not self.parse_request():
                    self.close_connection = True
                    return
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                outer.requests.append((self.command, f"{self.path} {self.headers.get('Range', '')}".strip()))
                fault = outer.fault(self.command, self.path)
                if fault in ("503", "expired"):
                    code = "SlowDown" if fault == "503" else "ExpiredToken"
                    content = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
                    self._answer(503 if fault == "503" else 400, [("Content-Type", "application/xml")], content)
                    return
                connection = http.client.HTTPConnection(server, timeout=30)
                connection.request(self.command, self.path, body or None, dict(self.headers))
                answer = connection.getresponse()
                content = answer.read()
                headers = [each for each in answer.getheaders() if each[0].lower() not in ("connection", "date")]
                if fault == "stall":
                    self._answer(answer.status, headers, content[: len(content) // 2])
                    outer.over.wait(60)
                    self.close_connection = True
                elif fault == "reset":
                    self._answer(answer.status, headers, content[: len(content) // 2])
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.connection.close()
                    self.close_connection = True
                else:
                    self._answer(answer.status, headers, content)

            def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    if name.lower() != "transfer-encoding":
                        self.send_header(name, value)
                if "content-length" not in {name.lower() for name, _ in headers}:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)
                self.wfile.flush()

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass  # whoever asked has gone

        self._server = Server(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()
