"""What is said of nodes that were asked for and don't come."""

from pathlib import Path

import pytest

from sweeps.machines.node_types import NodeType
from sweeps.options import SweepOptions
from sweeps.planning.capacity import Resources
from sweeps.running.idle import PATIENCE, Awaited, awaited_line, num_slots_missing
from sweeps.running.session import Session
from sweeps.table.cells import MINI, cells_of
from vit_trainer.config import Execution
from vit_trainer.errors import InputError

P4D = NodeType("a100", num_cpus=96, num_gpus=8, max_workers=3, machine="p4d.24xlarge")
SMALL = NodeType("small", num_cpus=8, num_gpus=1, max_workers=1)
ONE_OF_FOUR = Resources((8, 8, 8, 8), (96,) * 4, num_there=1)


def test_what_is_missing_is_what_was_asked_for_and_could_be_there() -> None:
    assert num_slots_missing(33, [1] * 25, ONE_OF_FOUR) == 24  # one more waits than the whole cluster holds
    assert num_slots_missing(12, [1] * 4, ONE_OF_FOUR) == 4
    assert num_slots_missing(9, [1], Resources((8,), (96,), num_there=1)) == 0  # nothing more can come
    assert num_slots_missing(8, [], ONE_OF_FOUR) == 0
    assert num_slots_missing(4, [4], Resources((2, 1, 4), (8, 8, 8), num_there=2)) == 4  # these don't hold it


def test_the_line_says_what_was_asked_since_when_and_what_has_come() -> None:
    line = awaited_line(24, 725, (31, 1), [P4D, P4D, P4D, SMALL], ONE_OF_FOUR)
    assert line == (
        "24 GPUs asked for 12 min ago (3 x p4d.24xlarge) and not there yet, 31 attempts failed, 1 node being set up; "
        "the sweep goes on with 8 GPUs"
    )
    nothing = Resources((8,), (96,), num_there=0)
    assert awaited_line(1, 7500, (0, 0), [P4D], nothing) == (
        "1 GPU asked for 125 min ago (1 x p4d.24xlarge) and not there yet; none is"
    )


@pytest.mark.parametrize("given", ["an hour", "0", "-1", "nan", "inf"])
def test_a_patience_that_is_none_is_refused(given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PATIENCE, given)
    options = SweepOptions(storage=str(tmp_path), quiet=True)
    session = Session("sweep", cells_of(MINI)[:1], options, Execution(), lambda trial: None)
    with pytest.raises(InputError, match=f"{PATIENCE} '{given}' is no number of minutes above 0: give such as 60"):
        Awaited(session)
