"""What may be behind a difference: of cells in a storage, and of runs made elsewhere."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sweeps.checks.explanations import explain_cell, explain_config
from sweeps.checks.finding import Finding
from sweeps.records.results import gather
from tests.sweeps.storages import ATTEMPT, finished, write_run
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.storage import Storage
from vit_trainer.weights.npz_files import checkpoint_path, file_sha256

SCRIPT = Path(__file__).parents[3] / "sweeps" / "explain.py"


def explained(storage: Path) -> list[Finding]:
    results = gather(Storage(storage))
    (record,) = results.cells
    return list(explain_cell(record, results))


def named(findings: list[Finding], what: str) -> list[tuple[str, str]]:
    return [(each.kind, each.detail) for each in findings if each.what == what]


def test_a_cell_that_follows_the_recipe_shows_its_tables_and_what_cannot_be_told(tmp_path: Path) -> None:
    config = FinetuneConfig.official("ViT-B_16", "cifar10", base_lr=0.01, dropout=0.1)
    write_run(tmp_path, config, *finished(config, 0.98, 0.985))
    findings = explained(tmp_path)
    assert named(findings, "recipe") == [("ok", "the official one, with the published learning rate")]
    (official, paper, other, *others) = named(findings, "table")
    assert paper[1].startswith("98.95% (paper), this is -0.45 points; dropout inferred: the authors' README")
    assert official[1].startswith("98.76% (official), this is -0.26 points; the verdict is about this one; the last in")
    assert other[1].startswith("99.06% (reimplementation), this is -0.56 points; dropout inferred: the default")
    assert {kind for kind, _ in others} == {"skip"}
    assert any("99.02% (official) is of ViT-B_16/cifar10/0.0: -0.52 points" in detail for _, detail in others)
    assert named(findings, "weights") == [("skip", "SHA-256 abababababab; the file isn't here to compare")]
    assert "not asked on the cards that trained" in named(findings, "parity")[0][1]


def test_what_differs_between_runs_and_from_the_files_here_is_named(tmp_path: Path) -> None:
    config = FinetuneConfig.official("ViT-B_16-mini", "digits-even", warmup_steps=3)
    path = checkpoint_path("ViT-B_16-mini", "digits")
    own = {**ATTEMPT, "weights_sha256": file_sha256(path), "precision": "bfloat16"}
    write_run(tmp_path, config, *finished(config, 0.9, 0.9), attempt=own)
    assert named(explained(tmp_path), "weights") == [("ok", f"{path}, SHA-256 {file_sha256(path)[:12]}")]
    other = replace(config, seed=1)
    write_run(tmp_path, other, *finished(other, 0.9, 0.9), attempt={**ATTEMPT, "precision": "float32"})
    findings = explained(tmp_path)
    assert named(findings, "weights")[0][1].startswith("runs began with 2 different files: ")
    assert named(findings, "precision") == [("warn", "differs between runs and attempts: bfloat16, float32")]
    (recipe,) = named(findings, "recipe")
    assert recipe == ("warn", "warmup_steps 3, not 8: a run of the official recipe is the one to compare")


def test_beside_a_tuned_figure_any_rate_will_do_and_what_is_quoted_is_what_no_verdict_is_about(tmp_path: Path) -> None:
    config = FinetuneConfig.official("ViT-H_14", "cifar100", base_lr=0.01, dropout=0.1)
    write_run(tmp_path, config, *finished(config, 0.93, 0.938))
    findings = explained(tmp_path)
    assert named(findings, "recipe") == [("ok", "the official one")]
    assert named(findings, "table")[0][1].startswith("93.82% (paper), this is -0.02 points; the verdict is about this")
    elsewhere = {"model": "ViT-B_16", "dataset": "cifar10", "steps": 500, "warmup": 50, "dropout": 0.1, "acc": 98.5}
    ((_, quoted), *_) = named(list(explain_config(elsewhere)), "table")
    assert quoted.startswith("98.59% (quoted), this is -0.09 points; official, as the")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"arch": "ViT-B_16", "data": "cifar100", "lr": 0.001, "top1": "91.0"}, "base_lr 0.001, not 0.03"),
        ({"model": "ViT-L_16", "dataset": "cifar10", "img_size": "224", "acc": 0.99}, "resolution 224, not 384"),
        (
            {"model": "ViT-L_16", "dataset": "cifar10", "batch_size": 128, "steps": 4e4},
            "global_batch_size 128, not 512",
        ),
    ],
)
def test_a_run_made_elsewhere_is_read_by_its_own_names(values: dict[str, Any], said: str) -> None:
    findings = list(explain_config({**values, "optimizer": "adam"}))
    assert said in named(findings, "recipe")[0][1]
    assert named(findings, "values")[0] == ("skip", "not looked at: optimizer")


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    for values, message in (
        ({"dataset": "cifar10"}, "no model given: give one under model, model_name"),
        ({"model": "ViT-B_16", "dataset": "cifar10", "lr": "fast"}, "a value is of the wrong kind"),
        ({"model": "ViT-B_33", "dataset": "cifar10"}, "unknown model 'ViT-B_33'"),
    ):
        with pytest.raises(InputError, match=message):
            list(explain_config(values))
    (tmp_path / "a.json").write_text("[]")
    (tmp_path / "b.csv").write_text("model,dataset,accuracy\nViT-B_16,cifar10,98.9\n")
    (tmp_path / "c.json").write_text(json.dumps({"model": "ViT-B_16", "dataset": "cifar10"}))

    def said(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, str(SCRIPT), *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    assert said("--config", "a.json")[::2] == (
        2,
        "error: a.json holds no run: give a JSON object, or a CSV with a header and a row per run\n",
    )
    assert said("--config", "nowhere")[0] == 2
    assert "99.02% (official), this is -0.12 points" in said("--config", "b.csv")[1]
    assert "ok    recipe" in said("--config", "c.json")[1]
    code, _, error = said("ViT-B_16/cifar10/0.0", "--storage", ".")
    assert (code, error.count("\n")) == (2, 1)
