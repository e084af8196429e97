"""Assignment: what a trial actor is asked to run, and on how much."""

from dataclasses import dataclass

from sweeps.checks.parity_on_nodes import ParityCheck
from vit_trainer.config import Execution, FinetuneConfig


@dataclass(frozen=True)
class Assignment:
    """What a TrialActor is asked to run, and on how much."""

    config: FinetuneConfig
    location: str
    """Path or URI of the run folder."""
    execution: Execution
    processes_of_nodes: tuple[int, ...] = (1,)
    """Processes, one per GPU, on each node of the placement group."""
    cpus_per_process: float = 1
    """CPU cores that Ray is asked for; how many threads a process has is its node's business."""
    has_gpus: bool = False
    """Whether a process takes a GPU of Ray's, or only CPU cores."""
    pause_at: int | None = None
    """Optimiser steps: the trial keeps its state and ends for now at its first validation there; None: it runs on."""
    max_failures: int = 3
    """How often the trial starts again after one of its processes died."""
    versions: dict[str, str] | None = None
    """Versions that its nodes must have, as `package_versions` gives them; None: whatever they have."""

    parity: ParityCheck | None = None
    """What a node that is new to the sweep is asked first; None: nothing."""

    @property
    def trial_id(self) -> str:
        return self.config.trial_id

    @property
    def bundles(self) -> list[dict[str, float]]:
        """Bundles of its placement group, one per node."""
        gpus = 1.0 if self.has_gpus else 0.0
        return [{"CPU": count * self.cpus_per_process, "GPU": count * gpus} for count in self.processes_of_nodes]
