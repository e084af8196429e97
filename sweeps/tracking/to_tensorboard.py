"""EventFiles: trials' journals as TensorBoard event files, since the published runs were shared that way."""

import shutil
import time
from pathlib import Path
from typing import Any

from sweeps.table.cells import cell_of, name_of_cell
from vit_trainer.errors import DamagedError
from vit_trainer.files.run_dir import RunDir


class EventFiles:
    """Event files in a folder per cell and trial. Journals are the truth: each session writes its files anew."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writers: dict[str, Any] = {}
        self._last_steps: dict[str, int] = {}

    def update(self, run_dir: RunDir) -> None:
        """Write what a trial's journal and result hold beyond what has been written; nothing before it has begun."""
        # Brought by Ray Tune. Its SummaryWriter is a thread and a queue per trial, whose flush doesn't wait for them.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import hparams

        try:
            run, trial_id = run_dir.read(), run_dir.trial_id
        except DamagedError:  # it is named where the sweep begins
            return
        if run is None or not (rows := run.journal):
            return
        writer = self._writers.get(trial_id)
        if writer is None:
            folder = self._folder / name_of_cell(cell_of(run.config)) / trial_id
            for earlier in (folder, self._folder / trial_id):  # where an older version had it
                shutil.rmtree(earlier, ignore_errors=True)
            folder.mkdir(parents=True)
            writer = self._writers[trial_id] = EventsWriter(str(folder / "events"))
            for summary in hparams(dict(run.config), {"val/accuracy": 0.0, "test/accuracy": 0.0}):
                writer.write_event(Event(step=0, wall_time=rows[0]["time"], summary=summary))
            self._last_steps[trial_id] = -1
        for row in rows:
            if row["step"] > self._last_steps[trial_id]:
                _write(writer, row, row["step"], row["time"])
                self._last_steps[trial_id] = row["step"]
        writer.flush()
        if (result := run.result) is not None:
            _write(writer, {key: result[key] for key in result if key.startswith("test/")}, result["step"], time.time())
            writer.close()
            del self._writers[trial_id]

    def close(self) -> None:
        """Close what is open."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def _write(writer: Any, values: dict[str, Any], step: int, seconds: float) -> None:
    from tensorboardX.proto.event_pb2 import Event

    event = Event(step=step, wall_time=seconds)
    for name, value in values.items():
        if isinstance(value, int | float) and name not in ("time", "step") and (name, value) != ("gpu_hours", 0):
            event.summary.value.add(tag=name, simple_value=value)
    writer.write_event(event)
