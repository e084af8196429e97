"""Random weights in the format of the released files, and an HTTP server that serves them as badly as one likes."""

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from vit_trainer.architectures import Architecture
from vit_trainer.weights.layouts import Arrays
from vit_trainer.weights.npz_layout import POSITION_EMBEDDING, tensor_map

MakeArrays = Callable[..., Arrays]


@pytest.fixture
def make_arrays() -> MakeArrays:
    def make(
        architecture: Architecture,
        *,
        grid: int = 2,
        num_classes: int | None = 10,
        representation_size: int | None = None,
        seed: int = 0,
    ) -> Arrays:
        draw = np.random.default_rng(seed)
        open_sizes = {
            POSITION_EMBEDDING: (1, grid**2 + 1, architecture.width),
            "pre_logits/kernel": (architecture.width, representation_size),
            "pre_logits/bias": (representation_size,),
            "head/kernel": (representation_size or architecture.width, num_classes),
            "head/bias": (num_classes,),
        }
        pairs = tensor_map(architecture, pre_logits=representation_size is not None, head=num_classes is not None)
        shapes = {pair.array: open_sizes.get(pair.array, pair.shape) for pair in pairs}
        return {
            name: draw.standard_normal(shape).astype(np.float32) * np.float32(0.3) for name, shape in shapes.items()
        }

    return make


@pytest.fixture
def saves_at_validations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint at each validation, however young the last one is."""
    monkeypatch.setattr("vit_trainer.loop.ledger.VALIDATION_MINUTES", 0.0)


@dataclass
class FileServer:
    """Serves `content` under every path but /missing; knows ranges unless told not to."""

    content: bytes = b""
    etag: str | None = '"first"'
    knows_ranges: bool = True
    knows_if_range: bool = True
    breaks_after: list[int] = field(default_factory=list)
    """Bytes after which the next answers break off, one answer each."""
    hold_after: int | None = None
    """Bytes after which an answer waits for `go_on`."""
    go_on: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    """(path, Range header) of each request."""
    address: str = ""


@pytest.fixture
def server() -> Iterator[FileServer]:
    state = FileServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            state.requests.append((self.path, asked))
            if self.path.endswith("/missing"):
                self.send_error(404)
                return
            first = 0
            valid = not state.knows_if_range or self.headers.get("If-Range") in (None, state.etag)
            if state.knows_ranges and asked and valid and (match := re.fullmatch(r"bytes=(\d+)-", asked)):
                first = int(match[1])
                if first >= len(state.content):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(state.content) - 1}/{len(state.content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(state.content) - first))
            if state.etag:
                self.send_header("ETag", state.etag)
            self.end_headers()
            stop = first + state.breaks_after.pop(0) if state.breaks_after else len(state.content)
            try:
                held = stop if state.hold_after is None else min(stop, max(first, state.hold_after))
                self.wfile.write(state.content[first:held])
                if held < stop:
                    state.go_on.wait()
                    self.wfile.write(state.content[held:stop])
            except OSError:
                pass  # the client was killed
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        state.address = f"http://127.0.0.1:{http.server_address[1]}"
        yield state
        state.go_on.set()
        http.shutdown()
        thread.join()
