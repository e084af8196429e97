"""RepeatOptions: the flags of a sweep that repeats cells over seeds, each with one learning rate."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal

from cyclopts import Parameter

from sweeps.options import SEVERAL, SweepOptions
from sweeps.records.results import gather
from sweeps.records.trial_record import TrialRecord
from sweeps.table.cells import Cell, cell_of
from sweeps.table.published import published_base_lr, published_for
from vit_trainer.errors import InputError, reason_of
from vit_trainer.tracking.chosen import Chosen, Finished, choose


@dataclass(frozen=True)
class RepeatOptions(SweepOptions):
    """The flags of every sweep, but for several seeds, which are all run to their end."""

    seeds: Annotated[tuple[int, ...], SEVERAL] = (0, 1, 2)
    """Seeds; each is another trial of its cell."""
    base_lrs: Annotated[tuple[str, ...], SEVERAL] = ()
    """Learning rates to repeat, or `official`; unless given the storage's best so far and the published figure's,
    which the verdict is about; without either the official."""
    early_stopping: Annotated[Literal["asha", "rehearsal"] | None, Parameter(negative_none="no-")] = None
    """asha, rehearsal: select among the rates, where several are given; seeds are no rivals."""

    def base_lrs_of(self, cell: Cell) -> tuple[float, ...]:
        if self.base_lrs:
            return super().base_lrs_of(cell)
        chosen, figure = self._chosen(cell), published_for(cell)
        rates = [chosen.base_lr] if chosen else []
        rates += [published_base_lr(cell)] if not chosen or (figure is not None and figure.base_lr is not None) else []
        return tuple(dict.fromkeys(rates))

    def explained(self, cells: Sequence[Cell]) -> list[str]:
        """A line per cell: which learning rate is repeated, and why."""
        lines = []
        for cell in cells:
            rates, chosen = self.base_lrs_of(cell), self._chosen(cell)
            known = "published" if (figure := published_for(cell)) and figure.base_lr else "official"
            why = chosen.why if chosen else f"the {known} one: no trial of it has finished"
            why += f"; {rates[1]:g} is the published one" if len(rates) > 1 else ""
            said = ", ".join(f"{rate:g}" for rate in rates)
            lines.append(f"{cell.name}: base_lr {said}, {'as given' if self.base_lrs else why}")
        return lines

    def _chosen(self, cell: Cell) -> Chosen | None:
        return choose(
            Finished.of(each.trial_id, each.config, each.result)
            for each in self._finished
            if cell_of(each.config) == cell.as_recorded and each.result is not None
        )

    @cached_property
    def _finished(self) -> list[TrialRecord]:
        """All of the storage when first asked."""
        try:
            results = gather(self.opened_storage)
            self.say_left_out(results.complaints)
            return [trial for trial in results.trials if trial.status == "finished"]
        except OSError as error:
            raise InputError(
                f"storage {self.storage} cannot be read ({reason_of(error)}): give that of a sweep"
            ) from error
