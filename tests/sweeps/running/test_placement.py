"""Where trials find their slots: on clusters of uneven nodes, and beside others. Real Ray, trials of formulas."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from benchmarks.formulas import FormulaActor, formula_cells
from sweeps.checks.parity_on_nodes import SWITCH
from sweeps.options import SweepOptions
from sweeps.planning.capacity import Resources
from sweeps.running import idle, tune_adapters
from sweeps.running.idle import why
from sweeps.running.session import Session
from sweeps.running.tuner import run_trials
from sweeps.table.cells import Trial
from vit_trainer.config import Execution

GIB = 2**30


@pytest.mark.parametrize(
    ("gpus", "cpus", "each"),
    [
        ((0, 4), (16, 4), 1),  # the head's cores are no help to another node's GPUs
        ((0, 8, 8), (64, 32, 32), 4),
        ((8,), (96,), 8),
        ((8, 4), (96, 4), 1),
        ((8,), (4,), 0.5),
        ((3,), (1,), 0.3333),
        ((2,), (0,), 0),
        ((0, 0), (4, 2), 1),
    ],
)
def test_a_process_asks_for_as_many_cores_as_leave_no_gpu_idle(
    gpus: tuple[int, ...], cpus: tuple[int, ...], each: float
) -> None:
    resources = Resources(gpus, cpus)
    assert resources.cpus_per_process == each
    if resources.has_gpus:
        nodes = zip(gpus, cpus, strict=True)
        assert all(count * resources.cpus_per_process <= cores for count, cores in nodes)


def test_why_nothing_runs_has_the_numbers() -> None:
    asked = [{"GPU": 4.0, "CPU": 4.0}]
    busy = [({"CPU": 16.0, "memory": GIB}, {"CPU": 16.0}), ({"GPU": 4.0, "CPU": 4.0}, {"GPU": 1.0, "CPU": 4.0})]
    assert why(asked, busy) == (
        "a trial asks for 4 GPUs and 4 CPU cores, and 1 of 4 GPUs and 20 of 20 CPU cores are free: "
        "other jobs of this cluster hold the rest (`ray status`)"
    )
    assert why(2 * asked, busy) == (
        "a trial asks for 4 GPUs and 4 CPU cores on each of 2 nodes, and the largest of 2 living nodes has "
        "4 GPUs and 4 CPU cores: nodes were lost, or are still to come"
    )
    assert "has no GPU or CPU core: nodes were lost" in why(asked, [])
    assert "a trial asks for 1 CPU core, which is free: Ray is slow" in why([{"CPU": 1, "GPU": 0}], busy)


@pytest.fixture
def joined(cluster: Any) -> Iterator[Any]:
    """The cluster, joined by this process."""
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()


def formulas(storage: Path, num_trials: int, **options: Any) -> Session:
    seeds = tuple(range(num_trials))
    given = SweepOptions(
        storage=str(storage), base_lrs=("0.01",), seeds=seeds, early_stopping=None, quiet=True, **options
    )
    return Session("formulas", formula_cells(1, 2), given, Execution(), lambda trial: None)


@ray.remote(num_cpus=0)
class Barrier:
    """Holds whoever comes until all have come."""

    def __init__(self, num_expected: int) -> None:
        import asyncio

        self._num_missing, self._all_here = num_expected, asyncio.Event()

    async def come(self) -> None:
        self._num_missing -= 1
        if self._num_missing <= 0:
            self._all_here.set()
        await self._all_here.wait()


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_uneven_nodes_have_all_their_gpus_busy(joined: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "off")  # there are no such GPUs

    class AllAtOnce(FormulaActor):  # in here, so that it travels by value: Ray's workers can't import a test
        """A trial that ends only if all of them run at the same time."""

        def step(self) -> dict[str, Any]:
            ray.get(ray.get_actor("barrier").come.remote())
            return super().step()

    for num_cpus, num_gpus in ((16, 0), (2, 2), (1, 2)):
        joined.add_node(num_cpus=num_cpus, num_gpus=num_gpus)
    barrier = Barrier.options(name="barrier").remote(4)
    session = formulas(tmp_path, 4)
    assert run_trials(session, AllAtOnce) is None
    assert session.counts() == {"finished": 4}
    ray.kill(barrier)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_gang_whose_node_is_lost_goes_on_with_the_slots_that_are_left(joined: Any, tmp_path: Path) -> None:
    class Held(FormulaActor):  # in here, as above
        """A trial that ends only in its second attempt."""

        def step(self) -> dict[str, Any]:
            ray.get(ray.get_actor("barrier").come.remote())
            return super().step() | {"node": ""}

    barrier = Barrier.options(name="barrier").remote(2)
    ray.get(barrier.__ray_ready__.remote())  # on the head, which stays
    large, _ = (joined.add_node(num_cpus=num_cpus) for num_cpus in (2, 1))
    session = formulas(tmp_path, 1, grow_gangs=True)
    has_started, started, sizes = threading.Event(), session.started, []

    def starts(trial_id: str) -> None:
        started(trial_id)
        sizes.append(session.slots_of(trial_id))
        has_started.set()

    def lose() -> None:
        has_started.wait()
        joined.remove_node(large, allow_graceful=False)

    session.started = starts  # type: ignore[method-assign]
    threading.Thread(target=lose, daemon=True).start()
    assert run_trials(session, Held) is None
    assert session.counts() == {"finished": 1}
    assert sizes == [2, 1]
    assert sum("was lost" in event.text for event in session.display.standing().events) == 1
    ray.kill(barrier)


@ray.remote(num_cpus=1)
class Other:
    """Somebody else's job."""

    def is_here(self) -> bool:
        return True


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_sweep_that_waits_for_others_says_so_and_runs_when_they_have_gone(
    joined: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(idle, "SECONDS_TO_START", 3.0)
    joined.add_node(num_cpus=1)
    other = Other.remote()
    assert ray.get(other.is_here.remote())
    session = formulas(tmp_path, 1)
    warned, has_warned = session.display.warned, threading.Event()
    monkeypatch.setattr(session.display, "warned", lambda line: (warned(line), has_warned.set()))

    def leave() -> None:
        has_warned.wait()
        ray.kill(other)

    threading.Thread(target=leave, daemon=True).start()
    assert run_trials(session, FormulaActor) is None
    assert session.counts() == {"finished": 1}
    said = "a trial asks for 1 CPU core, and 0 of 1 CPU cores are free: other jobs of this cluster hold the rest"
    assert said in capsys.readouterr().err
    assert said in session.display.standing().events[0].text


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_search_that_cannot_be_asked_is_given_up_with_its_cause(
    joined: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(tune_adapters, "PATIENCE_SECONDS", 3.0)
    joined.add_node(num_cpus=1)
    file = tmp_path / "optuna.log"
    options = SweepOptions(storage=str(tmp_path), search="optuna", num_trials=4, early_stopping=None, quiet=True)

    def searched(changed: Callable[[Trial], None]) -> Session:
        return Session("formulas", formula_cells(1, 2), options, Execution(), changed)

    def damage(trial: Trial) -> None:
        if session.display.result(trial.trial_id) is not None and b"rubbish" not in (content := file.read_bytes()):
            file.write_bytes(content + b"rubbish\n")

    session = searched(damage)
    assert run_trials(session, FormulaActor) == "search lost"
    assert session.loss == "no proposals for 0.05 minutes (JSONDecodeError: Expecting value: line 1 column 1 (char 0))"
    assert "the search was not told of " in caplog.text
    assert "Traceback" not in caplog.text
    num_done = session.num_done
    assert 0 < num_done < 4
    session = searched(lambda trial: None)
    assert "left out: optuna.log is damaged or no journal of Optuna's: it is kept as" in capsys.readouterr().err
    assert session.num_done == num_done
    assert run_trials(session, FormulaActor) is None
    assert session.counts() == {"finished": 4}
