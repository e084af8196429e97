"""Requests: what someone at another terminal or machine wants of a running sweep, through its storage.

Of a sweep's session by a file in the sweep's folder, of a trial's process by one in its run folder; whoever obeys
removes it, and a session that begins removes what was meant for an earlier one.
"""

import json
import logging
import time
from collections.abc import Callable, Sequence

from vit_trainer.errors import cause_of
from vit_trainer.files.folder import Folder
from vit_trainer.files.run_dir import STOP
from vit_trainer.files.schema import json_of

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LOOKS = 5.0
"""How often a session looks for requests."""
ASKED_TO_END = "asked to end; its state is kept, and the same command goes on with it"
"""Why a trial has failed that was asked to end."""
ALL = ("all",)
"""Asks for the end of the whole sweep."""


def ask_to_end(folder: Folder, what: Sequence[str]) -> None:
    """Leave a request in a sweep's folder; what: ids of trials and names of cells, or ALL."""
    folder.write(STOP, json.dumps(list(what)).encode())


class Requests:
    """Looks now and then for requests to a session."""

    def __init__(self, folder: Folder, clock: Callable[[], float] = time.monotonic) -> None:
        """folder: the sweep's."""
        self._folder, self._clock, self._next_at = folder, clock, clock()
        self.look()

    def look(self) -> list[str]:
        """What is to end, if anything is: ids of trials and names of cells, or ALL; each request is given once."""
        if self._clock() < self._next_at:
            return []
        self._next_at = self._clock() + SECONDS_BETWEEN_LOOKS
        try:
            content = self._folder.read(STOP)
            if content is None:
                return []
            self._folder.remove(STOP)
            return [str(each) for each in json_of(content)]
        except (OSError, ValueError, TypeError) as error:  # an outage, or not of ours
            log.warning("request not read: %s", cause_of(error))
            return []
