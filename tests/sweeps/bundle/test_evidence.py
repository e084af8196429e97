"""Evidence of small storages, packed, checked by the checker that lies in it, and merged."""

import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from sweeps.bundle.pack import pack
from sweeps.evidence import app, evidence
from sweeps.records.unpacked import unpacked
from sweeps.reporting.comparison import read_other
from tests.sweeps.storages import ATTEMPT, write_run
from vit_trainer.config import FinetuneConfig
from vit_trainer.errors import InputError
from vit_trainer.files.predictions import NUM_KEPT, Predictions
from vit_trainer.files.run_dir import PREDICTIONS, RunDir
from vit_trainer.files.storage import Storage

ROOT = Path(__file__).parents[3]
CHECKER = ROOT / "sweeps" / "bundle" / "check_evidence.py"
NUM_IMAGES = 1000
ENVIRONMENT = hashlib.sha256(b'{\n "python": "3.11.9"\n}').hexdigest()[:16]


def config(base_lr: float = 0.01, **values: object) -> FinetuneConfig:
    return FinetuneConfig.official("ViT-B_16", "cifar10", base_lr=base_lr, **values)


def write_finished(storage: Path, trial: FinetuneConfig, validation: float, num_correct: int) -> None:
    """A finished run with predictions of NUM_IMAGES images."""
    steps = [trial.total_steps * i // 4 for i in range(1, 5)]
    curve = [(step, validation - 0.01 * (steps[-1] - step) / steps[-1]) for step in steps]
    result = {"status": "finished", "val/accuracy": validation, "test/accuracy": num_correct / NUM_IMAGES}
    run_dir = write_run(storage, trial, curve, result, attempt={**ATTEMPT, "environment": ENVIRONMENT})
    RunDir(run_dir.folder).write_environment({"python": "3.11.9"})
    labels = (np.arange(NUM_IMAGES) % 10).astype(np.uint16)
    classes = (labels[:, None] + np.arange(NUM_KEPT)) % 10
    classes[num_correct:] = np.roll(classes[num_correct:], 1, axis=1)
    confidences, names = np.full(NUM_IMAGES, 0.9, np.float16), np.zeros(0, np.bytes_)
    kept = Predictions(classes.astype(np.uint16), confidences, labels, names)
    run_dir.folder.write(PREDICTIONS, kept.to_bytes())


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """Two cells with a published figure: one with three seeds, others stopped and failed; one that isn't done."""
    storage = tmp_path / "results"
    for seed, num_correct in enumerate((990, 989, 991)):
        write_finished(storage, config(seed=seed), 0.985, num_correct)
    write_finished(storage, config(0.03), 0.98, 985)
    write_run(storage, config(0.003), [(2500, 0.5)], {"status": "stopped", "cause": "ASHA", "val/accuracy": 0.5})
    write_run(storage, config(0.001), [], {"status": "failed", "cause": "a bug"})
    write_run(storage, config(0.03, dropout=0.1), [(1250, 0.7)], None)
    return storage


def check(bundle: Path) -> "subprocess.CompletedProcess[str]":
    """What the checker that lies in a bundle says, without anything of this project."""
    script = bundle.with_suffix(".py")
    with zipfile.ZipFile(bundle) as archive:
        script.write_bytes(archive.read(CHECKER.name))
    command = [sys.executable, "-I", str(script), str(bundle)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)


def test_a_bundle_holds_all_that_was_begun_and_its_checker_finds_it_right(storage: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "evidence.zip"
    root = pack(Storage(str(storage)), bundle)
    done = check(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the root hash is {root}: holds" in done.stdout
    assert "differs" not in done.stdout.replace("0 differs", "")
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        facts = json.loads(archive.read("facts.json"))
        assert "not known" in archive.read("checklist.md").decode()
    assert sum(name.endswith("config.json") for name in names) == 7, "the failed one too"
    assert any("upstream" in line or "NVIDIA A100" in line for line in facts["deviations"])
    again = tmp_path / "again.zip"
    pack(Storage(str(storage)), again)
    with zipfile.ZipFile(again) as archive:
        assert set(archive.namelist()) == set(names)
        assert f"environments/{ENVIRONMENT}.json" in names
        assert str(storage).encode() not in b"".join(map(archive.read, names)), "where it lies is nobody's business"


@pytest.mark.parametrize("bundle", sorted((ROOT / "results").glob("*/evidence.zip")), ids=lambda path: path.parent.name)
def test_what_was_achieved_is_borne_out(bundle: Path) -> None:
    command = [sys.executable, "-I", str(CHECKER), str(bundle)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert bundle.stat().st_size < 1e7


def test_what_one_digit_changes_is_found(storage: Path, tmp_path: Path) -> None:
    (result,) = (storage / "runs").glob("*lr0.01-s1-*/result.json")
    result.write_text(result.read_text().replace("0.989", "0.998"))
    bundle = tmp_path / "evidence.zip"
    pack(Storage(str(storage)), bundle)
    done = check(bundle)
    assert done.returncode == 1
    assert "0.989000 of its predictions are right, its result says 0.998000" in done.stdout


def test_bundles_of_several_sites_are_one_table(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sites = []
    for i, keep in enumerate(("*-s0-*", "*-s1-*", "*-s[02]-*")):
        site = tmp_path / f"site{i}"
        for run in (storage / "runs").glob(keep):
            shutil.copytree(run, site / "runs" / run.name)
        sites.append(str(tmp_path / f"site{i}.zip"))
        if i == 2:  # the same trial, run again
            write_finished(site, config(), 0.985, 988)
        evidence(storage=str(site), output=Path(sites[-1]))
    capsys.readouterr()
    app(["--from-bundles", *sites, "--storage", str(tmp_path / "merged")])
    said = capsys.readouterr().out
    assert said.splitlines()[-1] == f"Report: {tmp_path / 'merged' / 'report' / 'report.html'}"
    assert f"repeated: {config().trial_id}: 99.00%, -0.20 points in {sites[2]}" in said
    table = json.loads((tmp_path / "merged" / "report" / "table.json").read_text())
    assert table[0]["accuracies"] == "0.99 0.989 0.991"
    evidence(storage=str(tmp_path / "merged"), output=tmp_path / "whole.zip")
    assert check(tmp_path / "whole.zip").returncode == 0
    with zipfile.ZipFile(tmp_path / "whole.zip") as archive:
        assert f"environments/{ENVIRONMENT}.json" in archive.namelist()
    assert read_other(sites[1]).accuracies
    before = sorted(path.relative_to(tmp_path) for path in (tmp_path / "merged").rglob("*"))
    evidence(storage=str(tmp_path / "merged"), from_bundles=tuple(sites))
    assert "0 of them new" in capsys.readouterr().out
    assert before == sorted(path.relative_to(tmp_path) for path in (tmp_path / "merged").rglob("*"))
    with pytest.raises(InputError, match="no bundle"):
        evidence(storage=str(tmp_path / "half"), from_bundles=(sites[0], str(tmp_path / "none.zip")))
    assert not (tmp_path / "half" / "runs").exists(), "all are looked at before any is merged"


def test_a_bundle_that_is_none_is_refused(storage: Path, tmp_path: Path) -> None:
    text, evil, cut = tmp_path / "text.zip", tmp_path / "evil.zip", tmp_path / "cut.zip"
    text.write_text("no zip")
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("../outside", "x")
    pack(Storage(str(storage)), cut)
    cut.write_bytes(cut.read_bytes()[:-2000])
    for path, message in ((text, "no bundle"), (evil, "outside"), (cut, "no bundle"), (tmp_path / "none", "no bundle")):
        with pytest.raises(InputError, match=message), unpacked(path):
            pass
        assert "\n" not in message
    with pytest.raises(InputError, match="no trial has begun"):
        pack(Storage(str(tmp_path)), tmp_path / "empty.zip")
    with pytest.raises(InputError, match="cannot write"):
        pack(Storage(str(storage)), storage / "runs" / config().trial_id / "config.json" / "e.zip")
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_signature_is_ones_own(storage: Path, tmp_path: Path) -> None:
    key, bundle = tmp_path / "key", tmp_path / "evidence.zip"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    evidence(storage=str(storage), output=bundle, sign_with=key)
    assert check(bundle).returncode == 0
    signers = tmp_path / "signers"
    signers.write_text(f"me {key.with_suffix('.pub').read_text()}")
    with zipfile.ZipFile(bundle) as archive:
        (tmp_path / "sig").write_bytes(archive.read("manifest.json.sig"))
        manifest = archive.read("manifest.json")
    verify = [
        "ssh-keygen",
        "-Y",
        "verify",
        "-f",
        str(signers),
        "-I",
        "me",
        "-n",
        "evidence",
        "-s",
        str(tmp_path / "sig"),
    ]
    assert subprocess.run(verify, check=False, input=manifest).returncode == 0
    assert subprocess.run(verify, check=False, input=manifest + b" ").returncode != 0
    with pytest.raises(InputError, match="cannot sign with"):
        evidence(storage=str(storage), output=bundle, sign_with=signers)


@pytest.mark.slow
def test_a_well_kept_validator_finds_it_a_research_object(storage: Path, tmp_path: Path) -> None:
    """roc-validator needs another rich than we do, and so a virtual environment of its own."""
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    python = str(tmp_path / "venv" / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "roc-validator==0.13.0", "rocrate==0.16.0"]
    subprocess.run(install, check=True, timeout=240)
    pack(Storage(str(storage)), tmp_path / "evidence.zip", author="A. Student")
    with unpacked(tmp_path / "evidence.zip") as folder:
        done = subprocess.run(
            [python, "-c", VALIDATE, str(folder)], check=False, capture_output=True, text=True, timeout=240
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "valid", done.stdout


VALIDATE = """
import json, sys
from pathlib import Path
import rdflib.plugins.shared.jsonld.context as context
import rdflib.plugins.shared.jsonld.util as util
import rocrate

known = json.loads((Path(rocrate.__file__).parent / "data" / "ro-crate.jsonld").read_text())
fetch = util.source_to_json
util.source_to_json = lambda source, *a, **k: (known, None) if "ro/crate" in str(source) else fetch(source, *a, **k)
context.source_to_json = util.source_to_json

from rocrate_validator import models, services  # which takes what reads contexts as it finds it

settings = services.ValidationSettings(
    rocrate_uri=sys.argv[1],
    profile_identifier="process-run-crate-0.5",
    requirement_severity=models.Severity.REQUIRED,
)
messages = [issue.message for issue in services.validate(settings).get_issues()]
# One check asks the web for the context; there may be no web.
left = [message for message in messages if "ro/crate/1.1/context" not in message]
print(*left, sep="\\n")
print("not valid" if left else "valid")
"""
