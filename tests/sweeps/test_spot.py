"""A cloud takes a node back in the middle of a sweep."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sweeps.machines.spot_notices import AWS, GOOGLE
from tests.sweeps.metadata_server import MetadataServer
from tests.sweeps.sweep_process import QUIET_LRS, Start, numbers

pytestmark = [pytest.mark.long, pytest.mark.timeout(280)]


@pytest.fixture
def clouds() -> Iterator[tuple[MetadataServer, MetadataServer]]:
    """What two machines ask."""
    with MetadataServer() as first, MetadataServer() as second:
        yield first, second
        first.shutdown()
        second.shutdown()


def test_a_node_that_is_taken_back_keeps_states_and_gets_no_work(
    quiet: dict[str, Any], start: Start, tmp_path: Path, cluster: Any, clouds: tuple[MetadataServer, MetadataServer]
) -> None:
    aws, google = clouds
    taken = cluster.add_node(num_cpus=1, env_vars={AWS: f"http://{aws.address}"})
    flags = ["--base-lrs", *QUIET_LRS, "--checkpoint-every-minutes", "60", "--max-failures", "0"]
    sweep = start(tmp_path, *flags, address=cluster.address)
    sweep.wait_until(lambda run_dir: any("val/accuracy" in row for row in run_dir.rows()))
    aws.take_back()
    cluster.add_node(num_cpus=1, env_vars={GOOGLE: google.address})
    assert taken.all_processes["raylet"][0].process.wait(timeout=60) is not None  # idle, it ends by itself
    code, out, err = sweep.finish()
    assert code == 0, err
    (victim,) = [each for each in sweep.run_dirs() if len(each.attempts()) > 1]  # the next one, if the first has ended
    assert f"{victim.trial_id}: the cloud takes its node back at " in out
    assert "was lost" not in out
    assert victim.attempts()[1]["from_step"] > 0
    assert len(victim.rows()) == len(victim.journal())  # no step was done again
    assert numbers(tmp_path) == quiet
