"""Evidence of small storages, packed, checked by the checker that lies in it, and merged."""

import hashlib
import json
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from sweeps.bundle.data_hashes import hash_data
from sweeps.bundle.facts import uncommitted
from sweeps.bundle.pack import pack
from sweeps.evidence import app, evidence
from sweeps.records.decisions import Decision, record_decision
from sweeps.records.unpacked import read_data_hashes, unpacked
from sweeps.reporting.comparison import read_other
from tests.sweeps.storages import ATTEMPT, write_run
from vit_trainer.commands.sync import sync
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.shards.packed import FORMAT, HEADER, Header, PackedFile
from vit_trainer.errors import InputError
from vit_trainer.files.folder import LocalFolder
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
    root = pack(Storage(str(storage)), bundle)[0].root
    done = check(bundle)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"the root hash is {root}: holds" in done.stdout
    assert "differs" not in done.stdout.replace("0 differs", "")
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        facts = json.loads(archive.read("facts.json"))
        assert "not known" in archive.read("report/checklist.html").decode()
    assert sum(name.endswith("config.json") for name in names) == 7, "the failed one too"
    assert any("upstream" in line or "NVIDIA A100" in line for line in facts["deviations"])
    again = tmp_path / "again.zip"
    pack(Storage(str(storage)), again)
    with zipfile.ZipFile(again) as archive:
        assert set(archive.namelist()) == set(names)
        assert f"environments/{ENVIRONMENT}.json" in names
        assert str(storage).encode() not in b"".join(map(archive.read, names)), "where it lies is nobody's business"


def text_of(bundle: Path) -> str:
    """All that a bundle's files say, but the checker."""
    with zipfile.ZipFile(bundle) as archive:
        return "\n".join(
            archive.read(each).decode(errors="replace") for each in archive.namelist() if each != CHECKER.name
        )


def test_a_bundle_says_neither_where_nor_on_whose_machines(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", "correct-horse-battery")
    photos, folder_id = "/home/alice/photos", "photos-v2-0123456789ab"
    line = (
        f"python sweeps/paper_grid.py --datasets {photos} --storage=/Users/alice/out --notify https://u:p4ss@chat.org/x"
    )
    cause = (
        "node-1 was lost: File /home/alice/my/vit_trainer/train.py, correct-horse-battery, sqlite:////root/x/mlflow.db "
        "AKIAABCDEFGHIJKLMNOP"
    )
    opened, group = Storage(str(storage)), f"ViT-B_16 {photos} 384px"
    failed = write_run(storage, config(0.1), [(500, 0.5)], {"status": "failed", "cause": cause})
    name = failed.write_environment(
        {"python": "3.11.9", "variables": {"TORCH_HOME": "/home/alice/torch", "CACHE": "/tmp/torchinductor_alice"}}
    )
    attempt = {**ATTEMPT, "attempt": 2, "time": time.time(), "environment": name}
    failed.folder.append("journal.jsonl", json.dumps(attempt).encode())
    decision = Decision(failed.trial_id, group, 500, 500, 0.5, (), None, "goes on", "the first at this rung")
    record_decision(opened, "grid", decision)
    of = {"tags": {"dataset": photos}, "params": {"dataset": folder_id}, "group": group}
    opened.sweep("grid").write("tracking.json", json.dumps({failed.trial_id: of}).encode())
    command = {"time": 1.0, "host": "alices-laptop", "line": line, "cells": [], "searched": []}
    opened.sweep("grid").append("commands.jsonl", json.dumps(command).encode())
    parity = {"node": "10.1.2.3", "environment": "CPU", "outcome": "30 of 30 rungs hold", "rungs": ["pixels  pass"]}
    opened.sweep("grid").append("parity.jsonl", json.dumps(parity).encode())
    evidence(storage=str(storage), output=tmp_path / "evidence.zip")
    text = text_of(tmp_path / "evidence.zip")
    private = (
        "alice",
        "node-1",
        "10.1.2.3",
        "/home",
        "/Users",
        "/root",
        "p4ss",
        "correct-horse",
        "AKIA",
        str(tmp_path),
    )
    assert [word for word in private if word in text] == []
    assert f"ViT-B_16 {folder_id} 384px" in text
    assert ".../vit_trainer/train.py" in text
    assert "pixels  pass" in text
    said = check(tmp_path / "evidence.zip").stdout
    assert "environments have the hashes that they are called by: holds" in said
    assert "each trial's id is the hash of its config: holds" in said


def test_what_is_damaged_is_named_and_the_rest_is_packed(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = sorted((storage / "runs").iterdir())
    first = next(run for run in runs if (run / PREDICTIONS).exists())
    (first / PREDICTIONS).write_bytes(b"PK no zip")
    (runs[-1] / "config.json").write_text("{")
    evidence(storage=str(storage), output=tmp_path / "evidence.zip")
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(" is ")[0].partition(": no")[0] for line in said] == [
        f"left out: runs/{first.name}/{PREDICTIONS}",
        f"left out: runs/{runs[-1].name}/config.json",
    ]
    with zipfile.ZipFile(tmp_path / "evidence.zip") as archive:
        assert "labels/cifar10.npz" in archive.namelist(), "another trial has them"
        facts = json.loads(archive.read("facts.json"))
    assert facts["not_here"] == [runs[-1].name]
    assert len(facts["left_out"]) == 2
    done = check(tmp_path / "evidence.zip")
    assert first.name in done.stdout, "it can't be checked, or differs"
    for run in runs[:-1]:
        (run / "journal.jsonl").unlink()
    evidence(storage=str(storage), output=tmp_path / "without.zip")
    assert check(tmp_path / "without.zip").returncode == 1


class Moving(LocalFolder):
    """A storage that a sweep goes on in: a trial ends just after its result was looked for."""

    ending: Callable[[], None] | None = None

    def child(self, name: str) -> "Moving":
        return Moving(self.path / name)

    def read(self, name: str) -> bytes | None:
        content = super().read(name)
        if name == "result.json" and content is None and Moving.ending is not None:
            ending, Moving.ending = Moving.ending, None
            ending()
        return content


def test_a_storage_is_packed_as_of_one_moment(storage: Path, tmp_path: Path) -> None:
    trial = config(0.03, dropout=0.1)
    opened = Storage(str(storage))
    opened.folder = Moving(storage)

    def ending() -> None:
        write_finished(storage, trial, 0.9, 990)
        opened.sweep("grid").append(
            "slots.jsonl", b'{"time": 1e9, "trial": "%s", "slots": 1}\n' % trial.trial_id.encode()
        )

    Moving.ending = ending
    pack(opened, tmp_path / "evidence.zip")
    with zipfile.ZipFile(tmp_path / "evidence.zip") as archive:
        names = archive.namelist()
    assert {
        f"runs/{trial.trial_id}/result.json",
        f"runs/{trial.trial_id}/{PREDICTIONS}",
        "sweeps/grid/slots.jsonl",
    } <= set(names)


def test_a_bucket_is_packed_as_a_folder_is(storage: Path, tmp_path: Path, bucket: str) -> None:
    for path in filter(Path.is_file, storage.rglob("*")):
        Storage(bucket).folder.write(path.relative_to(storage).as_posix(), path.read_bytes())
    evidence(storage=bucket, output=tmp_path / "evidence.zip")
    assert check(tmp_path / "evidence.zip").returncode == 0
    assert "Packed as evidence: root " in (Storage(bucket).report().read("report.md") or b"").decode()
    assert "127.0.0.1" not in text_of(tmp_path / "evidence.zip")


def test_the_root_hash_is_in_the_report_and_in_mlflow(
    storage: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = Storage(str(storage))
    entry = {"tags": {}, "params": {}, "group": "a cell"}
    opened.sweep("grid").write("tracking.json", json.dumps({config().trial_id: entry}).encode())
    sync(storage=str(storage))
    capsys.readouterr()
    evidence(storage=str(storage), output=tmp_path / "evidence.zip")
    root = capsys.readouterr().out.split("root ")[1].strip()
    client = MlflowClient(opened.tracking_uri)
    experiment = client.get_experiment_by_name("grid")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], "tags.sweep_run = 'grid'")
    assert (run.data.tags["evidence/root"], run.data.tags["evidence/file"]) == (root, "evidence.zip")
    assert run.info.status == "FINISHED"
    page = (storage / "report" / "report.html").read_text()
    assert f"Packed as evidence: root {root}, " in page
    assert "evidence.zip, of 7 trials; 0 trials since." in page
    assert "not known" in (storage / "report" / "checklist.html").read_text()
    evidence(storage=str(storage), output=tmp_path / "again.zip", tracking_uri="http://127.0.0.1:9")
    assert capsys.readouterr().err.count("\n") == 1, "an MLflow that doesn't answer is a line"
    assert "Packed as evidence" not in text_of(tmp_path / "again.zip"), "what a bundle holds can't know its hash"


def test_uncommitted_code_is_packed_without_secrets(tmp_path: Path) -> None:
    assert uncommitted(tmp_path) is None, "no checkout"

    def git(*arguments: str, at: Path = tmp_path / "full") -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *identity, "-C", str(at), *arguments], check=True, capture_output=True)

    for package in ("sweeps", "vit_trainer"):
        (tmp_path / "full" / package).mkdir(parents=True)
        (tmp_path / "full" / package / "a.py").write_text("x = 1\n")
    (tmp_path / "full" / ".gitignore").write_text("*.log\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    git("clone", "--quiet", "--depth", "1", f"file://{tmp_path / 'full'}", str(tmp_path / "shallow"))
    assert uncommitted(tmp_path / "shallow") == ""
    root = tmp_path / "shallow"
    (root / "sweeps" / "a.py").write_text("x = 'https://me:p4ss@host/x'\n")
    (root / "sweeps" / "question.py").write_text("token = 'hf_" + "a" * 30 + "'\n")
    (root / "sweeps" / "run.log").write_text("ignored\n")
    (root / "notes.txt").write_text("outside of the packages\n")
    diff = uncommitted(root)
    assert diff is not None
    assert "+x = 'https://***@host/x'" in diff
    assert "+token = '***'" in diff
    assert not [word for word in ("p4ss", "hf_a", "ignored", "outside") if word in diff]
    status = subprocess.run(["git", "-C", str(root), "status", "--short"], check=True, capture_output=True, text=True)
    assert status.stdout.splitlines() == [" M sweeps/a.py", "?? notes.txt", "?? sweeps/question.py"], "as it was"


def test_data_are_hashed_as_sha256sum_does_and_once(
    storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("VIT_DATA", str(tmp_path / "data"))
    root = tmp_path / "data" / "cifar10"
    for name in ("b.txt", "b/x", "b/\u00e9", "A", "c d"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    evidence(storage=str(storage), output=tmp_path / "evidence.zip", hash_data=True)
    script = "find -L . -type f -printf '%P\\n' | LC_ALL=C sort | xargs -d '\\n' sha256sum | sha256sum"
    expected = subprocess.run(script, shell=True, cwd=root, check=True, capture_output=True, text=True).stdout[:64]
    with zipfile.ZipFile(tmp_path / "evidence.zip") as archive:
        dataset = json.loads(archive.read("facts.json"))["datasets"]["cifar10"]
        assert expected in archive.read("report/checklist.html").decode()
    assert (dataset["sha256"], dataset["num_files"]) == (expected, 5)
    assert "reading the 5 files of cifar10" in capsys.readouterr().err
    hash_data(Storage(str(storage)), ["cifar10"])
    assert capsys.readouterr().err == ""
    (root / "A").write_text("B!")
    hash_data(Storage(str(storage)), ["cifar10"])
    assert "reading the 5 files" in capsys.readouterr().err
    assert read_data_hashes(Storage(str(storage)))["cifar10"]["sha256"] != expected
    shards = PackedFile("index.parquet", 9, "ab"), (PackedFile("train-00000.tar", 7, "cd"),)
    packed = Header(FORMAT, "imagenet2012", "imagenet2012", 1000, {"train": 3, "val": 2}, 7, *shards).to_json()
    (tmp_path / "data" / "imagenet2012").mkdir()
    (tmp_path / "data" / "imagenet2012" / HEADER).write_bytes(packed)
    hash_data(Storage(str(storage)), ["imagenet2012", "none"])
    known = read_data_hashes(Storage(str(storage)))
    assert set(known) == {"cifar10", "imagenet2012"}
    assert known["imagenet2012"]["sha256"] == hashlib.sha256(packed).hexdigest()


@pytest.mark.parametrize("bundle", sorted((ROOT / "results").glob("*/evidence.zip")), ids=lambda path: path.parent.name)
def test_what_was_achieved_is_borne_out(bundle: Path, tmp_path: Path) -> None:
    for checker in (CHECKER, tmp_path / CHECKER.name):  # of this version, and of the one that packed it
        if not checker.exists():
            with zipfile.ZipFile(bundle) as archive:
                archive.extract(CHECKER.name, tmp_path)
        command = [sys.executable, "-I", str(checker), str(bundle)]
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
    write_finished(tmp_path / "site0", config(0.03, dropout=0.1), 0.9, 980)  # which wasn't done before
    (opened := Storage(str(tmp_path / "site0"))).sweep("grid").append(
        "slots.jsonl", b'{"time": 1e9, "trial": "a", "slots": 1}\n'
    )
    evidence(storage=str(tmp_path / "site0"), output=Path(sites[0]))
    evidence(storage=str(tmp_path / "merged"), from_bundles=tuple(sites))
    opened.sweep("grid").append("slots.jsonl", b'{"time": 2e9, "trial": "a", "slots": 0}\n')
    evidence(storage=str(tmp_path / "site0"), output=Path(sites[0]))
    evidence(storage=str(tmp_path / "merged"), from_bundles=tuple(sites))
    table = json.loads((tmp_path / "merged" / "report" / "table.json").read_text())
    assert [row["accuracies"] for row in table] == ["0.99 0.989 0.991", "0.98"]
    assert [path.name for path in (tmp_path / "merged" / "sweeps").iterdir()] == ["grid"], "one sweep that went on"
    capsys.readouterr()
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
    with pytest.raises(InputError, match=r"cannot sign with .*: give --sign-with a key"):
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
