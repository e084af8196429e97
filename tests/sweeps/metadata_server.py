"""A stand-in for what clouds serve in their machines: the instance metadata of AWS (version 2) and of Google Cloud."""

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "AQAEAKaqpyBvXEkGmYNR"


class MetadataServer(ThreadingHTTPServer):
    """Serves both clouds' paths until it is closed; `take_back` is the notice."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.taken_back_at: datetime | None = None
        self.changed = threading.Condition()
        self.is_down = False
        self.requests: list[str] = []
        """Method and path of each."""
        self.address = f"127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def take_back(self, seconds: float = 120) -> None:
        with self.changed:
            self.taken_back_at = datetime.now(UTC) + timedelta(seconds=seconds)
            self.changed.notify_all()


class _Handler(BaseHTTPRequestHandler):
    server: MetadataServer

    def do_PUT(self) -> None:
        self.server.requests.append(f"PUT {self.path}")
        asks = self.path == "/latest/api/token" and int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self._answer(200, TOKEN) if asks else self._answer(400)

    def do_GET(self) -> None:
        self.server.requests.append(f"GET {self.path}")
        if self.server.is_down:
            self._answer(503)
        elif self.path.startswith("/latest/"):
            self._answer_as_aws()
        else:
            self._answer_as_google(**{name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()})

    def _answer_as_aws(self) -> None:
        at = self.server.taken_back_at
        if self.headers["X-aws-ec2-metadata-token"] != TOKEN:
            self._answer(401)
        elif self.path != "/latest/meta-data/spot/instance-action" or at is None:
            self._answer(404)
        else:
            self._answer(200, json.dumps({"action": "terminate", "time": f"{at:%Y-%m-%dT%H:%M:%SZ}"}))

    def _answer_as_google(
        self, last_etag: str = "0", timeout_sec: str = "3600", wait_for_change: str = "false", **_: Any
    ) -> None:
        if self.headers["Metadata-Flavor"] != "Google":
            self._answer(403)
            return
        if urlsplit(self.path).path != "/computeMetadata/v1/instance/preempted":
            self._answer(404)
            return
        with self.server.changed:
            if wait_for_change == "true":
                self.server.changed.wait_for(lambda: self._etag() != last_etag, timeout=float(timeout_sec))
            self._answer(200, "FALSE" if self.server.taken_back_at is None else "TRUE", ETag=self._etag())

    def _etag(self) -> str:
        return "1f" if self.server.taken_back_at is None else "2f"

    def _answer(self, code: int, text: str = "", **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: Any) -> None:
        pass
