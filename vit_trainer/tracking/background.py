"""BackgroundShipper: a thread that ships run folders while trials go on."""

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from vit_trainer.errors import DamagedError, InputError, StoreError, cause_of
from vit_trainer.files.run_dir import RunDir
from vit_trainer.tracking.catalogue import Membership
from vit_trainer.tracking.trial_runs import Shipper

log = logging.getLogger(__name__)

SECONDS_BETWEEN_ATTEMPTS = 5.0
"""Pause after an outage."""


class BackgroundShipper:
    """A thread that ships run folders while a sweep goes on; an outage of MLflow delays the view and nothing else."""

    def __init__(
        self,
        tracking_uri: str,
        experiment: str,
        artifacts: Path,
        tags: Mapping[str, str],
        connected: Callable[[str], None] = lambda experiment_id: None,
    ) -> None:
        """connected: is told, in the thread, what MLflow calls the experiment, as soon as that is known."""
        self._connected = connected
        self._arguments = (tracking_uri, experiment, artifacts, dict(tags))
        self._queue: queue.Queue[tuple[RunDir, Membership] | None] = queue.Queue()
        self._files: Path | None = None
        self._report: list[dict[str, Any]] = []
        self.failure: str | None = None
        """The last outage in one line; None if everything was shipped."""
        self._thread = threading.Thread(target=self._work, name="mlflow-shipper", daemon=True)
        self._thread.start()

    def ship(self, run_dir: RunDir, membership: Membership) -> None:
        """Have a run folder shipped soon; returns at once."""
        self._queue.put((run_dir, membership))

    def close(
        self, *, files: Path | None = None, report: Iterable[dict[str, Any]] = (), timeout_seconds: float = 60.0
    ) -> None:
        """Wait until everything is shipped, or the time is up; trials without a result are then shown as interrupted.

        Args:
            files: folder to put on the sweep's own run, such as its report.
            report: rows of its table.json, which have the verdicts on cells.
        """
        self._files, self._report = files, list(report)
        self._queue.put(None)
        self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self.failure = self.failure or f"not done after {timeout_seconds:.0f} s"

    def _work(self) -> None:
        with suppress(ImportError):  # or the first to ship would wait for it
            import mlflow  # noqa: F401
        shipper: Shipper | None = None
        waiting: dict[str, tuple[RunDir, Membership]] = {}
        seen: dict[str, tuple[RunDir, Membership]] = {}
        closing = False
        while not closing:
            closing = self._gather(waiting)
            seen |= waiting
            if closing:
                waiting = dict(seen)  # some have ended since, some were left by their driver
            try:
                if shipper is None:
                    shipper = Shipper(*self._arguments)
                    self._connected(shipper.experiment_id)
                for trial_id, (run_dir, membership) in list(waiting.items()):
                    try:
                        shipper.ship(run_dir, membership, driver_ended=closing)
                    except DamagedError:
                        pass  # who reads the storage has named it
                    except InputError as error:
                        log.warning("MLflow: passed over: %s", error)
                    del waiting[trial_id]
                shipper.summarise_cells(driver_ended=closing, report=self._report if closing else ())
                if closing and self._files is not None:
                    shipper.ship_files(self._files)
                self.failure = None
            except Exception as error:
                failure = str(error) if isinstance(error, StoreError) else cause_of(error)
                if failure != self.failure:
                    log.warning("not shipped: %s", failure)
                self.failure = failure

    def _gather(self, waiting: dict[str, tuple[RunDir, Membership]]) -> bool:
        """Wait for something to ship, after an outage for some time at most; returns whether to close."""
        with suppress(queue.Empty):
            timeout = SECONDS_BETWEEN_ATTEMPTS if self.failure else None
            while True:
                item = self._queue.get(timeout=timeout)
                if item is None:
                    return True
                waiting[item[0].trial_id] = item
                timeout = 0.0
        return False
