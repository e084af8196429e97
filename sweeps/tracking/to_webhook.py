"""Notifier: tells a URL what becomes of a sweep, without ever waiting for it."""

import json
import queue
import socket
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

from vit_trainer.errors import cause_of
from vit_trainer.files.outgoing import hide_secrets, outgoing

News = Literal["finished", "failed", "cell failed", "budget reached", "interrupted"]
SECONDS_TO_ANSWER = 5.0
SECONDS_TO_SEND_THE_LAST = 2.0
"""How long a sweep's end waits for what hasn't been sent: a dead URL must not delay it."""


class Notifier:
    """Posts a small JSON object per event: `text` is one line for people, as chat services show it.

    The others are `event`, `sweep`, `storage`, `host`, `time` (Unix seconds), and facts of the event.
    """

    def __init__(self, url: str | None, sweep: str, storage: str) -> None:
        """url: None to tell nobody."""
        self._url, self._sweep, self._storage = url, sweep, storage
        self._queue: queue.Queue[tuple[News, bytes] | None] = queue.Queue()
        self.failure: str | None = None
        """Why the last event couldn't be sent, in one line, which was said when it happened."""
        self._thread = threading.Thread(target=self._work, name="notifier", daemon=True)
        if url is not None:
            self._thread.start()

    def send(self, event: News, text: str, facts: Mapping[str, Any] | None = None) -> None:
        """Have an event sent soon; returns at once."""
        if self._url is None:
            return
        content = {
            "text": f"{self._sweep}: {text}",
            "event": event,
            "sweep": self._sweep,
            "storage": self._storage,
            "host": socket.gethostname(),
            "time": time.time(),
            **(facts or {}),
        }
        self._queue.put((event, hide_secrets(json.dumps(content)).encode()))

    def close(self) -> None:
        """Wait a moment for what is on its way."""
        if self._url is not None:
            self._queue.put(None)
            self._thread.join(SECONDS_TO_SEND_THE_LAST)
            if self._thread.is_alive():
                self._say("was not told everything", f"no answer within {SECONDS_TO_SEND_THE_LAST:g} s")

    def _work(self) -> None:
        assert self._url is not None
        while (item := self._queue.get()) is not None:
            event, content = item
            request = urllib.request.Request(self._url, content, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER):
                    self.failure = None
            except Exception as error:  # also what answers that aren't HTTP raise: later events are tried all the same
                self._say(f"was not told of {event!r}", cause_of(error))

    def _say(self, what: str, failure: str) -> None:
        """Once as long as it is the same."""
        failure, before = outgoing(failure, keep="")[:200], self.failure
        self.failure = failure
        if failure != before:
            print(f"--notify {urlsplit(self._url).hostname!s} {what}: {failure}", file=sys.stderr)
