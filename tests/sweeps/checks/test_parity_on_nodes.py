"""Nodes are compared with the official code before a sweep spends anything there; of these, the CPUs are."""

from pathlib import Path
from typing import Any

import pytest

from sweeps.checks.parity_on_nodes import SWITCH, ParityCheck, refusal
from sweeps.records.parity import NodeParity, read_parity
from tests.sweeps.sweep_process import Start
from vit_trainer.files.storage import Storage

FINE = NodeParity("10.0.0.1", "NVIDIA H100, driver 570.1", "30 of 30 rungs hold, 0 skipped")


def test_nothing_is_asked_where_trials_run_on_cpus() -> None:
    assert ParityCheck.of(on_gpus=False) is None
    check = ParityCheck.of(on_gpus=True)
    assert check is not None
    assert check.device == "cuda"


def test_the_rung_and_the_node_are_named() -> None:
    assert refusal([FINE, FINE]) == ""
    wrong = NodeParity("10.0.0.2", "NVIDIA H100", "28 of 30 rungs hold", ("logits tiny_vit", "pixels: crop"))
    line = refusal([FINE, wrong])
    assert line.startswith(
        "node 10.0.0.2 computes otherwise than the official code, its NVIDIA H100 at rung 'logits tiny_vit' and 1 more "
        "rungs: take it out of the cluster"
    )
    silent = NodeParity("10.0.0.3", "", "no answer", ("CUDA error: unspecified launch failure",))
    expected = "node 10.0.0.3, and 1 more couldn't be verified (CUDA error: unspecified launch failure): take"
    assert refusal([silent, wrong]).startswith(expected)


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """The environment of a node where GELU is computed otherwise, but by its own verification alone."""
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'verify' in sys.orig_argv:\n"
        "    import torch.nn.functional as F\n"
        "    exact = F.gelu\n"
        "    F.gelu = lambda x, approximate='none': exact(x)\n"
    )
    return {"PYTHONPATH": str(folder)}


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_a_node_that_computes_otherwise_is_refused_before_a_trial_starts_and_others_are_in_the_report(
    cluster: Any, start: Start, tmp_path: Path, broken: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "cpu")
    cluster.add_node(num_cpus=1)
    odd = cluster.add_node(num_cpus=1, env_vars=broken)
    code, _, err = start(tmp_path / "results", address=cluster.address).finish(400)
    assert code == 2, err
    assert len(err.splitlines()) == 2, err  # the first names the cluster
    assert "computes otherwise than the official code" in err
    assert "at rung 'logits tiny_vit'" in err
    assert not (tmp_path / "results" / "runs").exists()
    found, _ = read_parity(Storage(str(tmp_path / "results")), "paper_grid-mini")
    assert sorted(bool(each.failures) for each in found) == [False, True]

    cluster.remove_node(odd)
    code, _, err = start(tmp_path / "results", "--base-lrs", "0.003", address=cluster.address).finish(400)
    assert code == 0, err
    found, num_damaged = read_parity(Storage(str(tmp_path / "results")), "paper_grid-mini")
    assert (len(found), num_damaged) == (3, 0)
    report = (tmp_path / "results" / "sweeps" / "paper_grid-mini" / "report" / "report.md").read_text()
    assert found[-1].environment in report
    assert found[-1].outcome in report


@pytest.mark.long
@pytest.mark.timeout(500)
def test_a_node_that_joins_later_is_asked_first_too(
    cluster: Any, start: Start, tmp_path: Path, broken: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SWITCH, "cpu")
    cluster.add_node(num_cpus=1)
    rates = [f"0.00{number}" for number in range(1, 10)]
    sweep = start(tmp_path / "results", "--base-lrs", *rates, address=cluster.address)
    sweep.wait_until(lambda run_dir: bool(run_dir.journal()), 300)
    cluster.add_node(num_cpus=1, env_vars=broken)
    code, _, err = sweep.finish(400)
    assert code == 2, err
    assert "at rung 'logits tiny_vit'" in err
    results = [run_dir.result() for run_dir in sweep.run_dirs()]
    assert {result["status"] for result in results if result is not None} <= {"finished"}
