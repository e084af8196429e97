"""Trackers: everywhere that the news of a sweep goes: MLflow, TensorBoard's event files, a web address."""

from sweeps.options import SweepOptions
from sweeps.running.early_end import Reason
from sweeps.running.session import Session
from sweeps.table.cells import Cell, Trial
from sweeps.tracking.to_mlflow import SweepShipper
from sweeps.tracking.to_tensorboard import EventFiles
from sweeps.tracking.to_webhook import Notifier
from vit_trainer.files.folder import Folder


class Trackers:
    """Told of every change; none of them can delay or end a trial."""

    def __init__(self, name: str, options: SweepOptions) -> None:
        self._options = options
        self._shipper = SweepShipper(name, options)
        self._event_files = EventFiles(options.opened_storage.event_files) if options.tensorboard else None
        self._notifier = Notifier(options.notify, name, options.storage)
        self._session: Session | None = None
        self._failed_cells: set[Cell] = set()

    @property
    def tracking_uri(self) -> str:
        return self._shipper.tracking_uri

    @property
    def how_to_compare(self) -> str:
        """What to open to see the runs, in a line or two."""
        return self._shipper.how_to_compare

    def begin(self, session: Session) -> None:
        """Tell what earlier sessions have left; `changed` is called from now on."""
        self._session = session
        if session.num_done < session.num_expected:
            self._shipper.tell = session.display.told
        self._shipper.ship_all(session.trials.values())
        for trial in session.trials.values():
            if self._event_files is not None:
                self._event_files.update(self._options.run_dir(trial))

    def changed(self, trial: Trial) -> None:
        """There is something new about a trial."""
        self._shipper.ship(trial)
        if self._event_files is not None:
            self._event_files.update(self._options.run_dir(trial))
        session = self._session
        if self._options.notify is None or session is None or session.display.result(trial.trial_id) is None:
            return
        if trial.cell not in self._failed_cells and session.has_failed(trial.cell):
            self._failed_cells.add(trial.cell)
            self._notifier.send("cell failed", f"no trial of {trial.cell.name} finished", {"cell": trial.cell.name})

    def ended(self, ended_early: Reason | None) -> None:
        """The sweep has ended; why, if before its trials had."""
        assert self._session is not None
        counts = self._session.counts()
        said = ", ".join(f"{number} {status}" for status, number in counts.items())
        if ended_early == "interrupted":
            self._notifier.send("interrupted", f"interrupted ({said})", {"trials": counts})
        elif ended_early in ("cluster lost", "search lost"):
            self._notifier.send("interrupted", f"{self._session.loss} ({said})", {"trials": counts})
        elif ended_early == "over budget":
            hours = self._session.budget.used_hours
            text = f"the budget is used up after {hours:.3g} GPU-hours ({said})"
            self._notifier.send("budget reached", text, {"trials": counts, "gpu_hours": hours})
        elif counts.get("failed"):
            self._notifier.send("failed", f"ended with failed trials ({said})", {"trials": counts})
        else:
            self._notifier.send("finished", f"finished ({said})", {"trials": counts})

    def close(self, report: Folder) -> None:
        """Send what is on its way, and the report's files to MLflow."""
        self._shipper.close(report)
        if self._event_files is not None:
            self._event_files.close()
        self._notifier.close()
