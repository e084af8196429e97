"""Predictions of image files, and a finished trial in plain timm as docs/one-trial.md has it."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

from tests.vit_trainer.conftest import MakeArrays
from tests.vit_trainer.finished_trial import finished_trial, outcome_of, output_of
from vit_trainer.architectures import MODELS
from vit_trainer.config import FinetuneConfig
from vit_trainer.data.class_folders import find_class_folders
from vit_trainer.data.class_names import class_names, class_order
from vit_trainer.data.datasets import DATASETS, listed_folder
from vit_trainer.data.load import load_dataset
from vit_trainer.errors import CheckpointError, InputError
from vit_trainer.files.predictions import Predictions
from vit_trainer.files.run_dir import RunDir
from vit_trainer.inference.classifier import Classifier
from vit_trainer.model.build import build_model
from vit_trainer.weights.choice import Weights, WeightsChoice, class_names_of
from vit_trainer.weights.npz_files import MINIATURES, read_npz, write_npz
from vit_trainer.weights.safetensors_files import metadata_of

ONE_TRIAL = Path(__file__).parents[3] / "docs" / "one-trial.md"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    finished_trial(folder)
    return folder


@pytest.fixture(scope="module")
def trial(storage: Path) -> FinetuneConfig:
    return FinetuneConfig.official("ViT-B_32-mini", "digits-even", total_steps=2, warmup_steps=1, base_lr=0.03)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Test images of digits-even as files."""
    folder = tmp_path_factory.mktemp("digits")
    images = load_dataset("digits-even").test._images.numpy()[:20]  # type: ignore[attr-defined]
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:02}.png")
    return sorted(folder.iterdir())


def test_a_trials_predictions_are_those_of_its_evaluation(
    storage: Path, trial: FinetuneConfig, digits: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    out = output_of(
        ["predict", *map(str, digits), "--trial", trial.trial_id, "--storage", str(storage)], capsys
    ).splitlines()
    with WeightsChoice(trial=trial.trial_id, storage=str(storage)).opened() as weights:
        classifier = Classifier.load(weights)
    test = load_dataset("digits-even").test
    ((images, _, _),) = test.evaluation_batches(np.arange(20), 20, resolution=32, device=torch.device("cpu"))
    probabilities = classifier.probabilities(images)
    for path, line, row in zip(digits, out, probabilities, strict=True):
        shown = re.findall(r"(\d) (\d+\.\d)%", line.removeprefix(f"{path}: "))
        assert [name for name, _ in shown] == ["02468"[i] for i in row.argsort(descending=True).tolist()]
        assert [float(percent) for _, percent in shown] == pytest.approx(
            sorted((100 * row).tolist(), reverse=True), abs=0.051
        )


def test_a_trial_is_evaluated_and_exported_by_its_id_or_folder(
    tmp_path: Path, storage: Path, trial: FinetuneConfig, digits: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    result = json.loads((storage / "runs" / trial.trial_id / "result.json").read_text())
    for place in (
        ["--trial", trial.trial_id, "--storage", str(storage)],
        ["--trial", f"{storage}/runs/{trial.trial_id}"],
    ):
        found = json.loads(output_of(["evaluate", *place, "--json", "-"], capsys))
        assert (found["test/accuracy"], found["dataset"]) == (result["test/accuracy"], "digits-even")
        exported = str(tmp_path / "exported.safetensors")
        output_of(["export", *place, "--output", exported], capsys)
        own = output_of(["predict", *map(str, digits), *place], capsys)
        assert output_of(["predict", *map(str, digits), "--checkpoint", exported], capsys) == own
    error = outcome_of(["evaluate", "--trial", f"{tmp_path}/none"], capsys)[2]
    assert error == f"error: no run folder at {tmp_path}/none: give a trial's folder, or its id and its --storage\n"


def test_classes_are_matched_by_their_names_or_refused(
    tmp_path: Path, storage: Path, trial: FinetuneConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = storage / "runs" / trial.trial_id
    weights, order = load_file(folder / "model.safetensors"), [3, 1, 4, 0, 2]
    weights |= {name: weights[name][order].contiguous() for name in ("head.weight", "head.bias")}
    own, kept = str(tmp_path / "own.safetensors"), str(tmp_path / "kept.npz")
    found = {}
    for names in (["6", "2", "8", "0", "4"], ["six", "two", "eight", "zero", "four"]):
        save_file(weights, own, metadata_of(trial.to_dict(), names))
        command = ["evaluate", "--checkpoint", own, "--json", "-", "--predictions", kept]
        found[names[0]] = outcome_of(command, capsys)
    code, out, said = found["6"]
    expected = json.loads((folder / "result.json").read_text())["test/accuracy"]
    assert (code, json.loads(out)["test/accuracy"]) == (0, expected)
    assert said == "digits-even has the head's classes in another order: matched by their names\n"
    ours, theirs = (Predictions.from_bytes(Path(path).read_bytes()) for path in (kept, folder / "predictions.npz"))
    assert np.array_equal(ours.classes, theirs.classes)
    assert ours.class_names.tolist() == theirs.class_names.tolist() == list("02468")
    assert found["six"] == (
        2,
        "",
        f"error: the classes of {own} are six, two, eight …, and none is called 0, which digits-even has: "
        "give its folders the names of these classes, or their numbers from 0\n",
    )


def test_an_older_trial_of_numbered_folders_has_its_classes_in_the_order_of_then(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, name in enumerate(("2", "10")):
        for part in ("train", "val"):
            (tmp_path / "pages" / part / name).mkdir(parents=True)
            for image in ("1.png", "2.png"):
                Image.new("RGB", (8, 8), (200 * number,) * 3).save(tmp_path / "pages" / part / name / image)
    pages = str(tmp_path / "pages")
    then = f"{find_class_folders(Path(pages), version=1).contents_id({})}:{pages}"
    model = build_model(MODELS["ViT-B_32-mini"], num_classes=2, resolution=32)
    torch.nn.init.constant_(model.head.bias[:1].data, 1.0)  # the first class of then, whatever it sees
    config = FinetuneConfig("ViT-B_32-mini", then, resolution=32)
    run_dir = RunDir(tmp_path / "runs" / config.trial_id)
    run_dir.open_for_writing(config.to_dict())
    run_dir.write_weights(save(model.state_dict()))
    run_dir.write_result({"status": "finished", "step": 1, "val/accuracy": 0.5, "test/accuracy": 0.5})
    trial = ["--trial", str(run_dir.location), "--dataset", pages]
    assert ": 10 7" in output_of(["predict", f"{pages}/val/2/1.png", *trial], capsys)
    kept = str(tmp_path / "kept.npz")
    code, _, said = outcome_of(["evaluate", *trial, "--num-workers", "0", "--predictions", kept], capsys)
    assert (code, said) == (0, f"{pages} has the head's classes in another order: matched by their names\n")
    predictions = Predictions.from_bytes(Path(kept).read_bytes())
    assert [predictions.name_of(label) for label in predictions.classes[:, 0].tolist()] == ["10"] * 4


def test_numbers_of_classes_are_those_of_the_heads_outputs() -> None:
    order, said = class_order(("cat", "dog", "owl"), ("00", "2", "1"), "it", "./v2")
    assert (order, said) == (
        [0, 2, 1],
        "./v2 has numbers for classes, taken for the head's: 0 for cat, 1 for dog, 2 for owl …",
    )
    for others in (("1", "2", "3"), ("0", "1", "one"), ("cat", "dog", "Owl")):
        with pytest.raises(InputError, match=r"the classes of it are cat, dog, owl …, and none is called"):
            class_order(("cat", "dog", "owl"), others, "it", "./v2")


def test_a_checkpoint_knows_its_model_and_is_right_about_digits(
    digits: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    labels = load_dataset("digits-even").test._labels[:20] * 2  # type: ignore[attr-defined]
    for name in ("ViT-B_16-mini", "R50+ViT-B_16-mini"):
        arguments = ["predict", *map(str, digits), "--checkpoint", str(MINIATURES / f"{name}.npz")]
        named = output_of([*arguments, "--dataset", "digits-pretrain"], capsys).splitlines()
        seen = [line.split(": ")[1].split()[0] for line in named]
        assert np.mean([int(digit) == label for digit, label in zip(seen, labels.tolist(), strict=True)]) >= 0.9
        numbered = output_of(arguments, capsys).splitlines()
        assert [line.split(": class ")[1].split()[0] for line in numbered] == seen
        by_upstream = ["predict", str(digits[0]), "--model", name, "--upstream", "digits"]
        assert output_of(by_upstream, capsys).splitlines() == named[:1], "the upstream tells whose classes they are"


def test_other_modes_and_sizes_of_images_are_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mode, name in (("L", "grey.png"), ("RGBA", "clear.png"), ("CMYK", "print.jpg"), ("P", "palette.png")):
        Image.new(mode, (70, 20)).save(tmp_path / name)
    names = ["clear.png", "grey.png", "palette.png", "print.jpg"]
    files = [str(tmp_path / name) for name in names]
    out = output_of(["predict", *files, "--checkpoint", str(MINIATURES / "ViT-B_32-mini.npz")], capsys)
    assert [line.split(": ")[0] for line in out.splitlines()] == files


def test_every_named_class_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIT_DATA", str(tmp_path))
    for name, info in DATASETS.items():
        assert len(set(class_names(name))) == info.num_classes
    assert class_names("imagenet2012")[7] == "cock", "its folder isn't here"
    assert [class_names("imagenet2012")[number] for number in (134, 517)] == ["crane (n02012849)", "crane (n03126707)"]
    assert class_names("cifar10")[3] == "cat"
    assert class_names("cifar100")[::33] == ("apple", "forest", "raccoon", "worm")
    for name in ("dog", "ant"):
        for part in ("train", "val"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / "pets" / part / name / "1.png")
    assert class_names(str(tmp_path / "pets")) == ("ant", "dog")
    for part in ("train", "val"):
        (tmp_path / "pets" / part / "ant").rename(tmp_path / "pets" / part / "n01440764")
        (tmp_path / "pets" / part / "dog").rename(tmp_path / "pets" / part / "n99999999")
    listed_folder.cache_clear()
    assert class_names(str(tmp_path / "pets")) == ("tench", "n99999999")


def test_folders_and_patterns_go_on_past_what_is_unreadable_and_pipes_stay_parseable(
    tmp_path: Path, digits: list[Path]
) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for path in digits[:11]:
        shutil.copy(path, tmp_path / "in" / "deep" / path.name)
    (tmp_path / "in" / "text.PNG").write_text("no image")
    (tmp_path / "in" / "gone.jpg").symlink_to("nowhere")
    for passed_over in ("notes.txt", ".hidden.png"):
        (tmp_path / "in" / passed_over).write_text("")
    images = [f"in/deep/{path.name}" for path in digits[:11]]
    checkpoint = str(MINIATURES / "ViT-B_32-mini.npz")
    told = (
        "cannot read in/gone.jpg (a link to nowhere: No such file or directory)\n"
        "passed over 1 file in 1 folder: .txt\n"
        "cannot read in/text.PNG (not an image that Pillow knows)\n"
    )

    def predict(*arguments: str) -> tuple[int, str, str]:
        command = [sys.executable, "-m", "vit_trainer", "predict", *arguments, "--checkpoint", checkpoint]
        done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=60)
        return done.returncode, done.stdout, done.stderr

    code, out, err = predict("in", "--json", "--top-k", "3")
    assert (code, err) == (1, f"{told}2 of 13 could not be read\n")
    rows = json.loads(out)
    assert [row["file"] for row in rows] == images
    assert {len(row["classes"]) for row in rows} == {3}
    assert all(1 >= row["classes"][0]["probability"] >= row["classes"][1]["probability"] >= 0 for row in rows)

    code, out, err = predict("in/**/0*.png", "in/deep/10.png", "--csv", "--top-k", "2", "--dataset", "digits-pretrain")
    table = list(csv.DictReader(out.splitlines()))
    assert (code, err) == (0, "")
    assert [row["file"] for row in table] == images
    assert [f"class {row['class']}" for row in table] == [row["classes"][0]["class"] for row in rows]
    for row, other in zip(table, rows, strict=True):
        assert float(row["probability_2"]) == pytest.approx(other["classes"][1]["probability"], rel=1e-4)

    assert predict("in/text.PNG", "--json") == (1, "[]\n", f"{told.splitlines()[2]}\n1 of 1 could not be read\n")


def unfinished(storage: Path, status: str | None) -> str:
    """The id of a trial that ended otherwise than finished, or goes on."""
    config = FinetuneConfig.official("ViT-B_32-mini", "digits-even", seed=5)
    run_dir = RunDir(storage / "runs" / config.trial_id)
    run_dir.open_for_writing(config.to_dict())
    if status is not None:
        run_dir.write_result(
            {"status": status, "step": 7, "cause": "a reason", "val/accuracy": 0.5, "test/accuracy": 0.5}
        )
    run_dir.close()
    return config.trial_id


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (None, "trial ID isn't finished: let the command that began it go on to its end"),
        ("stopped", "trial ID isn't finished, it was stopped at step 7: give one that is"),
        ("failed", "trial ID isn't finished, it failed at step 7: give one that is"),
        ("finished", "trial ID left no weights: run it again with --save-weights, in another --storage"),
    ],
)
@pytest.mark.parametrize("command", ["predict", "attention"])
def test_a_trial_that_is_not_finished_is_one_line(
    tmp_path: Path,
    digits: list[Path],
    command: str,
    status: str | None,
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trial_id = unfinished(tmp_path, status)
    arguments = [command, str(digits[0]), "--trial", trial_id, "--storage", str(tmp_path)]
    assert outcome_of(arguments, capsys) == (2, "", f"error: {message.replace('ID', trial_id)}\n")


def test_other_bad_input_is_one_line(
    tmp_path: Path,
    storage: Path,
    trial: FinetuneConfig,
    digits: list[Path],
    make_arrays: MakeArrays,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_npz(tmp_path / "no-head.npz", make_arrays(MODELS["ViT-B_32-mini"], grid=4, num_classes=None))
    known, place = str(MINIATURES / "ViT-B_32-mini.npz"), ["--storage", str(storage)]
    near, unnamed = trial.trial_id[:-1], str(tmp_path / "unnamed.safetensors")
    save_file({"weight": torch.zeros(3)}, unnamed)
    for arguments, message in [
        (["--checkpoint", f"{tmp_path}/no-head.npz"], f"{tmp_path}/no-head.npz has no head for predictions: fine-tune"),
        (["--trial", near, *place], f"no trial {near} in {storage}: did you mean {trial.trial_id}?"),
        (["--trial", "x", *place], f"no trial x in {storage}: give one of the 1 in {storage}/runs"),
        (["--trial", "x", "--storage", str(tmp_path)], f"there are no run folders in {tmp_path}: give the --storage"),
        (["--trial", trial.trial_id, *place, "--model", "ViT-L_16-mini"], f"trial {trial.trial_id} is a ViT-B_32-mini"),
        (
            ["--trial", trial.trial_id, *place, "--dataset", "digits-odd"],
            f"trial {trial.trial_id} was trained on digits-even: leave --dataset out",
        ),
        (["--trial", trial.trial_id, *place, "--resolution", "30"], "resolution 30 does not fit ViT-B_32-mini: give a"),
        ([], "give one of --trial with a finished trial's id, --checkpoint with a file, or --model and --upstream"),
        (["--trial", "x", "--checkpoint", known], "give one of --trial with a finished trial's id, --checkpoint"),
        (["--upstream", "scratch", "--model", "ViT-B_32-mini"], "unknown upstream with weights 'scratch'. Valid: imag"),
        (["--upstream", "digits", "--model", "ViT-B32-mini"], "unknown model 'ViT-B32-mini'; did you mean 'ViT-B_32-m"),
        (["--upstream", "digits"], "give --model too, such as ViT-B_16: several models have digits weights"),
        (["--checkpoint", unnamed], f"{unnamed} looks like no Vision Transformer: give"),
        (["--checkpoint", f"{tmp_path}/none.npz"], f"no checkpoint at {tmp_path}/none.npz"),
        (["--checkpoint", known, "--model", "ViT-L_16-mini"], f"{known} does not fit ViT-L_16-mini"),
        (["--checkpoint", known, "--dataset", "cifar100"], f"the head of {known} has 10 classes, cifar100 has 100"),
        (["--checkpoint", known, "--dataset", "cifar11"], "unknown dataset 'cifar11'; did you mean 'cifar10'?"),
    ]:
        code, out, error = outcome_of(["predict", str(digits[0]), *arguments], capsys)
        assert (code, out, error.count("\n")) == (2, "", 1), error
        assert error.startswith(f"error: {message}")
    (tmp_path / "empty").mkdir()
    for arguments, message in [
        ([], "no image given: name one or more image files"),
        (["none"], "no file, folder or match of none: give image files, folders or patterns"),
        ([f"{tmp_path}/*.tif"], f"no file, folder or match of {tmp_path}/*.tif: give image files, folders or patterns"),
        ([f"{tmp_path}/empty"], f"no images in {tmp_path}/empty: give files that end with"),
        ([str(digits[0]), "--top-k", "0"], "top-k 0 is below 1: give 1 or more"),
        ([str(digits[0]), "--json", "--csv"], "give one of --json and --csv"),
    ]:
        code, out, error = outcome_of(["predict", *arguments, "--checkpoint", known], capsys)
        assert (code, out, error.count("\n")) == (2, "", 1), error
        assert error.startswith(f"error: {message}")


def documented_block() -> str:
    """The three lines that load a trial into plain timm."""
    (block,) = re.findall(r"```python\n(import timm.*?)```", ONE_TRIAL.read_text(), re.DOTALL)
    assert len(list(filter(None, block.splitlines()))) == 3
    return str(block)


def logits_of(model: torch.nn.Module, resolution: int) -> torch.Tensor:
    images = torch.rand(1, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        return model.eval()(images)


def test_the_documented_lines_load_a_finished_trial(
    storage: Path, trial: FinetuneConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Word for word but for the sizes of the miniature, which timm has no name for."""
    architecture, create = MODELS["ViT-B_32-mini"], timm.create_model
    sizes = {
        "img_size": 32,
        "patch_size": architecture.patch_size,
        "embed_dim": architecture.width,
        "depth": architecture.depth,
        "num_heads": architecture.num_heads,
        "mlp_ratio": architecture.mlp_dim / architecture.width,
        "num_classes": 5,
    }
    monkeypatch.setattr(timm, "create_model", lambda name, **options: create(name, **(options | sizes)))
    folder = storage / "runs" / trial.trial_id
    found: dict[str, torch.nn.Module] = {}
    exec(documented_block().replace("sweep-results/runs/<trial id>", str(folder)), found)
    ours = Classifier.load(Weights("ViT-B_32-mini", folder / "model.safetensors", "it", 32)).model
    logits = logits_of(found["model"], 32)
    assert torch.equal(logits, logits_of(ours, 32))
    assert logits.abs().max() > 1e-3


@pytest.mark.slow
def test_the_documented_lines_load_a_full_size_trial_word_for_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    ours = build_model(MODELS["ViT-B_16"], num_classes=10, resolution=384)
    torch.nn.init.normal_(ours.head.weight)
    run_dir = RunDir(tmp_path / "sweep-results" / "runs" / "a-trial")
    run_dir.open_for_writing({})
    run_dir.write_weights(save(ours.state_dict()))
    monkeypatch.chdir(tmp_path)
    found: dict[str, torch.nn.Module] = {}
    exec(documented_block().replace("<trial id>", "a-trial"), found)
    assert torch.equal(logits_of(found["model"], 384), logits_of(ours, 384))


def test_a_hybrids_trial_needs_no_export_for_the_commands(
    tmp_path: Path, digits: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    config, run_dir = finished_trial(tmp_path, "R50+ViT-B_16-mini")
    arguments = ["--trial", config.trial_id, "--storage", str(tmp_path)]
    assert output_of(["predict", str(digits[0]), *arguments], capsys).startswith(f"{digits[0]}: ")
    weights = ["--checkpoint", f"{run_dir.location}/model.safetensors"]
    direct = output_of(["predict", str(digits[0]), *weights], capsys)
    assert direct == output_of(["predict", str(digits[0]), *arguments], capsys)
    assert "head/kernel" in read_npz(MINIATURES / f"{config.model}.npz")


def test_names_of_a_folder_of_classes_travel_with_the_weights(tmp_path: Path) -> None:
    for name in ("dog", "ant"):
        for part in ("train", "val"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for number in (1, 2):
                Image.new("RGB", (4, 4)).save(tmp_path / "pets" / part / name / f"{number}.png")
    pets = str(tmp_path / "pets")
    model = build_model(MODELS["ViT-B_32-mini"], num_classes=2, resolution=32)
    config = FinetuneConfig("ViT-B_32-mini", pets, resolution=32)
    run_dir = RunDir(tmp_path / "runs" / config.trial_id)
    run_dir.open_for_writing(config.to_dict())
    run_dir.write_result({"status": "finished", "step": 1, "val/accuracy": 0.5, "test/accuracy": 0.5})
    own = metadata_of(config.to_dict(), ("ant", "dog"))
    for metadata, dataset, names in (
        (None, None, ("class 0", "class 1")),  # an older version's
        (None, pets, ("ant", "dog")),
        (own, None, ("ant", "dog")),
    ):
        run_dir.write_weights(save(model.state_dict(), metadata))
        with WeightsChoice(trial=config.trial_id, storage=str(tmp_path), dataset=dataset).opened() as weights:
            assert Classifier.load(weights).names(weights) == names
            assert class_names_of(weights.path) == (("ant", "dog") if metadata else None)
    run_dir.write_weights(save(model.state_dict(), own | {"class_names": "[1]"}))
    with (
        pytest.raises(CheckpointError, match=r"the class names in .*model\.safetensors are damaged"),
        WeightsChoice(trial=config.trial_id, storage=str(tmp_path)).opened(),
    ):
        pass
