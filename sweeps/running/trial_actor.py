"""TrialActor: what Ray Tune schedules. It owns a placement group and runs trials in it, as gangs over its nodes.

It never imports torch: the training happens in processes that launchers fork. So Tune may reuse the actor without a
trace of the trial before, and killing the actor ends everything that it started.
"""

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

import ray
from ray import tune
from ray.util import get_current_placement_group, get_node_ip_address
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from sweeps.cluster.leaving import call_when_taken_back
from sweeps.cluster.nodes import threads_per_process
from sweeps.cluster.versions import differences, package_versions, refusal
from sweeps.records.parity import NodeParity
from sweeps.running.assignment import Assignment
from sweeps.running.launcher import (
    FAILED,
    FINISHED,
    HUNG,
    INTERRUPTED,
    LEASE_LOST,
    PAUSED,
    Exited,
    Reported,
    Start,
    Stepped,
    free_port,
)
from sweeps.running.launcher_client import Helper, LauncherClient, lacking_here
from sweeps.running.requests import ASKED_TO_END
from vit_trainer.files.run_dir import STOP, RunDir

SECONDS_TO_BE_FOUND = 20.0
"""How much later than one node another finds that its part of a gang hangs too; it then says where."""


class TrialActor(tune.Trainable):
    """Runs the trial in config["assignment"]; a result per report of the trial, and a last one with `done`.

    The trial begins with the first step, not before: Tune may give it to another actor while this one starts.

    A result is a row of the journal with `node` and `host` of the first process, or `note` with a line for whoever
    watches (and `starts_again` if the trial's processes do, `moves` if the trial is about to go on elsewhere), or
    `stepped` once they have taken their first step, or `parity` with what nodes came to that are new to the sweep, or
    `cause` with the failure's, or `refused` with why nothing may run here, or `paused`: its state is kept and its slot
    is free.
    """

    _launcher: LauncherClient | None = None
    _num_threads = 1
    _helpers: tuple[Any, ...] = ()
    _parts: tuple[Any, ...] = ()
    """What each helper's `run` will return."""
    _attempt = 0
    _begun = False
    """Whether the trial has begun here."""
    _lost_a_part = False
    _leaves = ""
    """Why the trial has to go on elsewhere, once a cloud takes one of the nodes back."""

    def setup(self, config: dict[str, Any]) -> None:
        assignment = config["assignment"]
        assert isinstance(assignment, Assignment)
        self._assignment, self._execution = assignment, assignment.execution
        self._num_failures, self._begun = 0, False
        if self._launcher is None:
            self._num_threads = threads_per_process(assignment.has_gpus)
            self._launcher = LauncherClient(self._num_threads)
            group = get_current_placement_group()
            assert group is not None
            self._helpers = tuple(
                ray.remote(Helper)
                .options(
                    num_cpus=bundle["CPU"],
                    num_gpus=bundle["GPU"],
                    max_concurrency=3,
                    scheduling_strategy=PlacementGroupSchedulingStrategy(group, i),
                )
                .remote(assignment.has_gpus)
                for i, bundle in enumerate(assignment.bundles)
                if i > 0
            )
            call_when_taken_back(self._leave, self._helpers)

    def step(self) -> dict[str, Any]:
        assert self._launcher is not None
        if self._leaves and not self._launcher.runs:
            raise ConnectionError(self._leaves)  # Tune starts it elsewhere
        if not self._begun:
            self._begun = True
            if refused := self._refused():
                return {"done": True, "refused": refused}
            if found := self._parity():
                self._begun = False
                return {"done": any(each.failures for each in found), "parity": [asdict(each) for each in found]}
            self._begin()
        message = self._launcher.receive()
        if isinstance(message, Reported):
            return dict(message.row) | {"node": ray.get_runtime_context().get_node_id(), "host": socket.gethostname()}
        if isinstance(message, Stepped):
            return {"stepped": True}
        return self._ended(self._exit_of_gang(message))

    def _ended(self, exited: Exited) -> dict[str, Any]:
        """The result of a gang's end, and what follows from it."""
        if exited.status in (FINISHED, PAUSED):
            return {"done": True} | ({"paused": True} if exited.status == PAUSED else {})
        if exited.status == LEASE_LOST:
            return {"done": True, "taken_over": exited.cause}
        if exited.status == FAILED:
            if sum(self._assignment.processes_of_nodes) > 1:
                self._record(exited.result or {"status": "failed", "step": 0, "cause": exited.cause})
            return {"done": True, "cause": exited.cause}
        if exited.status == INTERRUPTED and (cause := self._end_as_asked()):
            return {"done": True, "cause": cause}
        if self._leaves:
            return {"note": f"{self._leaves}: its state is kept, and it goes on elsewhere", "moves": True}
        if exited.status == INTERRUPTED or exited.micro_batch_size is not None:
            if exited.micro_batch_size is not None:
                self._execution = replace(self._execution, micro_batch_size=exited.micro_batch_size)
            self._begin()
            return {"note": exited.cause, "starts_again": True}
        return self._died(exited)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._end()
        self.setup(new_config)
        return True

    def cleanup(self) -> None:
        self._end()
        for helper in self._helpers:
            ray.kill(helper)
        if self._launcher is not None:
            self._launcher.close()
            self._launcher = None

    def _refused(self) -> str:
        """Why no trial may run here: a node that joined after the sweep's start has other versions, or no inputs."""
        if self._assignment.versions is None:
            return ""
        found = {get_node_ip_address(): package_versions()}
        for there in ray.get([helper.versions.remote() for helper in self._helpers]):
            found |= there
        if different := differences(self._assignment.versions, found):
            return refusal(different)
        config = self._assignment.config
        texts = [lacking_here(config), *ray.get([helper.lacking.remote(config) for helper in self._helpers])]
        return next(filter(None, texts), "")

    def _parity(self) -> list[NodeParity]:
        """What its nodes come to that the sweep hasn't asked yet, or that failed."""
        check = self._assignment.parity
        if check is None:
            return []
        answers = [check.here(), *ray.get([helper.parity.remote(check) for helper in self._helpers])]
        return [each for found, is_new in answers for each in found if is_new or each.failures]

    def _begin(self) -> None:
        assert self._launcher is not None
        assignment = self._assignment
        counts = assignment.processes_of_nodes
        rendezvous = f"{get_node_ip_address()}:{free_port()}" if len(counts) > 1 else ""
        starts = [
            Start(
                assignment.config,
                assignment.location,
                self._execution,
                num_processes=count,
                num_threads=self._num_threads,
                first_rank=sum(counts[:i]),
                world_size=sum(counts),
                rendezvous=rendezvous,
                pause_at=assignment.pause_at,
            )
            for i, count in enumerate(counts)
        ]
        self._attempt += 1
        self._lost_a_part = False
        self._launcher.start(starts[0])
        self._parts = tuple(
            helper.run.remote(start, self._attempt) for helper, start in zip(self._helpers, starts[1:], strict=True)
        )
        if self._parts:
            threading.Thread(target=self._watch, args=(self._parts, self._launcher), daemon=True).start()
        if self._leaves:  # it was said while nothing could be asked to end
            self._launcher.ask_to_end()

    def _watch(self, parts: tuple[Any, ...], launcher: LauncherClient) -> None:
        """The first of the other nodes' parts to fail ends this one; if it hung, this one may first say where it is."""
        waiting = list(parts)
        while waiting:
            (done,), waiting = ray.wait(waiting, num_returns=1)
            try:
                status = ray.get(done).status
            except ray.exceptions.RayError:
                status = FAILED
            if status == HUNG and parts is self._parts:
                time.sleep(SECONDS_TO_BE_FOUND)
            if status != FINISHED and parts is self._parts:
                self._lost_a_part = True
                launcher.kill()
                return

    def _leave(self, why: str) -> None:
        self._leaves = why
        if self._launcher is not None:
            self._launcher.ask_to_end()

    def _exit_of_gang(self, mine: Exited) -> Exited:
        """How the gang of all nodes ended: where one part was killed, the others' errors are about losing it."""
        if not self._parts or mine.status == FINISHED:
            return mine
        if mine.status == HUNG:
            ray.wait(list(self._parts), num_returns=len(self._parts), timeout=SECONDS_TO_BE_FOUND)
        elif not self._lost_a_part and mine.status > 0:
            ray.wait(list(self._parts), num_returns=1, timeout=5)  # a part that was killed has ended by now
        ended, running = ray.wait(list(self._parts), num_returns=len(self._parts), timeout=0)
        try:
            exits: list[Exited] = [exited for exited in ray.get(ended) if exited.status != FINISHED]
            self._kill_parts()
            ray.get(running)
        except ray.exceptions.RayError as error:
            raise ConnectionError(f"a node of the gang was lost: {error}") from error  # Tune starts it elsewhere
        if causes := [str(exited.cause) for exited in (mine, *exits) if exited.status == HUNG]:
            return Exited(HUNG, "; ".join(causes))
        killed = next((exited for exited in exits if exited.status < 0), None)
        if mine.status in (INTERRUPTED, PAUSED):
            return mine  # it was asked to end; the others have lost it
        if self._lost_a_part and exits:
            return killed or exits[0]
        return killed or mine if mine.status > 0 else mine

    def _kill_parts(self) -> None:
        for helper in self._helpers:
            helper.kill.remote(self._attempt)

    def _end_as_asked(self) -> str:
        """The cause in the result of a trial that was asked to end; empty of another."""
        folder = RunDir(self._assignment.location).folder
        if folder.read(STOP) is None:
            return ""
        folder.remove(STOP)
        run = RunDir(self._assignment.location).read_intact()
        self._record({"status": "failed", "step": run.step if run else 0, "cause": ASKED_TO_END})
        return ASKED_TO_END

    def _died(self, exited: Exited) -> dict[str, Any]:
        self._num_failures += 1
        how = f"signal {signal.Signals(-exited.status).name}" if exited.status < 0 else f"exit code {exited.status}"
        what = "it hung" if exited.status == HUNG else "its process died"
        cause = f"{what} ({exited.cause or how})"
        allowed = self._assignment.max_failures
        if self._num_failures > allowed:
            cause = f"{cause} {self._num_failures} times: more than max_failures {allowed}"
            run = RunDir(self._assignment.location).read_intact()
            self._record({"status": "failed", "step": run.step if run else 0, "cause": cause})
            return {"done": True, "cause": cause}
        line = {"note": f"{cause}; goes on from its last checkpoint (retry {self._num_failures} of {allowed})"}
        with self._opened() as run_dir:
            run_dir.append(line)
        self._begin()
        return line | {"starts_again": True}

    def _record(self, result: dict[str, Any]) -> None:
        with self._opened() as run_dir:
            run_dir.write_result(result)

    @contextmanager
    def _opened(self) -> Iterator[RunDir]:
        """The run folder while no process of the trial writes to it."""
        run_dir = RunDir(self._assignment.location)
        run_dir.open_for_writing(self._assignment.config.to_dict())
        yield run_dir
        run_dir.close()

    def _end(self) -> None:
        if self._launcher is not None:
            self._launcher.end()
        self._kill_parts()
        with suppress(ray.exceptions.RayError):
            ray.get(list(self._parts))
        self._parts = ()
