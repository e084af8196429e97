"""A storage that has trials of a folder of classes goes on with them, whatever has changed: rules, name or images."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeps.options import SweepOptions
from sweeps.planning.candidates import cells_asked_for
from tests.vit_trainer.finished_trial import outcome_of
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.class_folders import find_class_folders
from vit_trainer.data.datasets import folder_of, listed_folder
from vit_trainer.data.earlier_ids import as_known, keep_listing, under_id
from vit_trainer.data.families.folder import load
from vit_trainer.errors import DataError
from vit_trainer.files.predictions import Predictions
from vit_trainer.files.storage import Storage

FIRST_ID = "mine-3de0751bca4a"
"""What version 1 called the folder below, and the trial of its recipe (at commit 80634ac)."""
FIRST_TRIAL = "ViT-B_16-mine-3de0751bca4a-d0-lr0.03-s0-a129b9"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """12 numbered classes of 4 and 2 files; of no matter that they are no images."""
    root = tmp_path / "mine"
    for part, count in (("train", 4), ("val", 2)):
        for label in range(12):
            (root / part / str(label)).mkdir(parents=True)
            for i in range(count):
                (root / part / str(label) / f"{i}.png").write_bytes(bytes([label, i]) * 40)
    return root


def storage_with(tmp_path: Path, *trial_ids: str) -> Storage:
    for trial_id in trial_ids:
        (tmp_path / "storage" / "runs" / trial_id).mkdir(parents=True)
    return Storage(tmp_path / "storage")


def known(name: str | Path, storage: Storage) -> tuple[str, list[str]]:
    listed_folder.cache_clear()
    lines = list[str]()
    return as_known(str(name), storage, lines.append), lines


def trial_of(name: str, model: str = "ViT-B_16") -> str:
    return FinetuneConfig.official(model, name).trial_id


def test_a_new_folder_is_no_news(root: Path, tmp_path: Path) -> None:
    storage = storage_with(tmp_path, "ViT-B_16-cifar10-d0-lr0.01-s0-ced78c", FIRST_TRIAL.replace("3de", "fff", 1))
    assert known("cifar10", storage) == ("cifar10", [])
    assert known(root, storage_with(tmp_path / "empty")) == (str(root), [])


def test_what_version_1_began_goes_on_by_its_rules(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = storage_with(tmp_path, FIRST_TRIAL)
    name, (line,) = known(root, storage)
    assert name == f"{FIRST_ID}:{root}"
    assert line.startswith(f"{root}: goes on as {FIRST_ID}, as it began here: class names sorted as text, ")
    assert trial_of(name) == FIRST_TRIAL
    assert folder_of(name).classes[:4] == ("0", "1", "10", "11")
    splits = load(name)
    assert len(splits.validation) == 12  # a part for it there was none, and 2% of 48 is at least one of each class

    options = SweepOptions(datasets=(str(root),), models=("ViT-B_16",), dropouts=(0.0,), storage=storage.location)
    (cell,) = cells_asked_for(options, "paper")
    assert (cell.dataset, cell.as_recorded.dataset) == (name, FIRST_ID)
    assert cell.schedule.total_steps == 10_000
    assert capsys.readouterr().out == f"{line}\n"
    assert under_id(str(root), FIRST_ID) == name
    assert under_id(str(root), FIRST_ID.replace("3", "4")) is None


@pytest.mark.parametrize("model", ["ViT-B_16", "ViT-B_16-mini"])
def test_a_renamed_folder_goes_on_under_its_former_name(root: Path, tmp_path: Path, model: str) -> None:
    storage = storage_with(tmp_path, trial_of(str(root), model))
    assert known(root, storage) == (str(root), [])
    renamed = root.rename(tmp_path / "ours")
    name, (line,) = known(renamed, storage)
    former = name.partition(":")[0]
    assert former.startswith("mine-v2-")
    assert line == f"{renamed}: goes on as {former}, as it began here"
    assert trial_of(name, model) in storage.trial_ids()
    (renamed / "val" / "3" / "1.png").write_bytes(b"another")
    listed_folder.cache_clear()
    with pytest.raises(DataError, match=f"{renamed} isn't {former} any more: its images have changed since"):
        trial_of(name)


def test_a_process_that_begins_after_a_folder_has_changed_refuses_it(root: Path) -> None:
    config = FinetuneConfig.official("ViT-B_16-mini", str(root))
    sent = pickle.dumps(config)
    listed_folder.cache_clear()
    assert pickle.loads(sent).to_dict() == config.to_dict()
    (root / "val" / "3" / "1.png").write_bytes(b"another")
    listed_folder.cache_clear()
    with pytest.raises(DataError, match=f"{root} isn't mine-v2-.* any more: its images have changed since"):
        pickle.loads(sent).to_dict()


def test_it_is_said_how_a_folder_has_changed(root: Path, tmp_path: Path) -> None:
    storage = storage_with(tmp_path, trial_of(str(root)))
    keep_listing(str(root), storage)
    former = listed_folder(str(root)).id
    (root / "train" / "0" / "0.png").unlink()
    shutil.copy(root / "train" / "1" / "0.png", root / "train" / "1" / "more.png")
    swapped = [root / "train" / label / "2.png" for label in ("5", "7")]
    contents = [path.read_bytes() for path in swapped]
    for path, content in zip(swapped, reversed(contents), strict=True):
        path.write_bytes(content)
    for place in (root, tmp_path / "renamed too"):
        root = root.rename(place)
        name, (line,) = known(root, storage)
        assert name == str(root)
        assert line.startswith(f"{root} changed since {former}: 1 added, 1 removed, 2 changed; ")

    (listing,) = (tmp_path / "storage" / "datasets").iterdir()
    listing.write_bytes(b"damaged")
    assert known(root, storage) == (str(root), [])
    root = root.rename(tmp_path / "mine")
    assert "changed since" in known(root, storage)[1][0]


def test_train_does_all_that(
    image_folder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(classes=("1", "10", "2"))
    command = ["train", "--model", "ViT-B_16-mini", "--upstream", "digits", "--base-lr", "0.01", "--total-steps", "1"]
    command += ["--warmup-steps", "0", "--global-batch-size", "4", "--num-workers", "0", "--dataset", str(root)]

    def trained(storage: Storage) -> tuple[str, list[str], str]:
        """What the data set is called in the newest trial, its classes, and what was said."""
        before = set(storage.trial_ids())
        listed_folder.cache_clear()
        code, said, _ = outcome_of([*command, "--storage", storage.location], capsys)
        assert code == 0
        (folder,) = (Path(storage.location) / "runs" / each for each in set(storage.trial_ids()) - before)
        names = Predictions.from_bytes((folder / "predictions.npz").read_bytes()).class_names.tolist()
        return json.loads((folder / "config.json").read_text())["dataset"], names, said

    first = find_class_folders(root, version=1).contents_id({})
    began, anew = storage_with(tmp_path, f"ViT-B_16-mini-{first}-d0-lr0.01-s0-0a1b2c"), Storage(tmp_path / "anew")
    called, names, said = trained(began)
    assert (called, names) == (first, ["1", "10", "2"])
    assert said.startswith(f"{root}: goes on as {first}, as it began here: ")
    former, names, said = trained(anew)
    assert (former, names) == (listed_folder(str(root)).id, ["1", "2", "10"])
    assert former in said.splitlines()[0], "the trial's id comes first"
    (root / "val" / "10" / "10_1.JPEG").unlink()
    called, _, said = trained(anew)
    assert called != former
    assert said.startswith(f"{root} changed since {former}: 0 added, 1 removed, 0 changed; ")
