"""Attention computed beside the fused operation, its rollout, and the command that draws both."""

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from torch import Tensor

from tests.vit_trainer.conftest import MakeArrays
from tests.vit_trainer.finished_trial import finished_trial, outcome_of, output_of
from vit_trainer.architectures import MODELS
from vit_trainer.files.run_dir import RunDir
from vit_trainer.files.storage import Storage
from vit_trainer.inference.attention import attend, rollout
from vit_trainer.inference.attention_figure import Subject, png
from vit_trainer.inference.classifier import Classifier
from vit_trainer.model.build import build_model
from vit_trainer.tracking.catalogue import Catalogue, Membership
from vit_trainer.weights.choice import Weights
from vit_trainer.weights.npz_files import MINIATURES, write_npz

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "attention.md"
MINIS = sorted(name for name in MODELS if name.endswith("-mini"))


def classifier(name: str, path: Path | None = None) -> Classifier:
    path = path or MINIATURES / f"{name}.npz"
    return Classifier.load(Weights(name, path, str(path)))


def random_image(resolution: int) -> Tensor:
    return torch.rand(1, 3, resolution, resolution, generator=torch.Generator().manual_seed(0)) * 2 - 1


def png_file(path: Path, seed: int = 0) -> Path:
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 30, 3), dtype=np.uint8)).save(path)
    return path


@torch.inference_mode()
def recomputed(model: torch.nn.Module, image: Tensor, maps: Tensor) -> tuple[list[Tensor], Tensor]:
    """What each block's attention gives, and the logits, where the weights are `maps` instead of the model's own."""
    outputs = []
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(image))))
    for block, weights in zip(model.blocks, maps, strict=True):
        projection = block.attn.qkv.weight[-tokens.shape[2] :], block.attn.qkv.bias[-tokens.shape[2] :]
        values = torch.nn.functional.linear(block.norm1(tokens)[0], *projection)
        heads = [weights[h] @ part for h, part in enumerate(values.split(block.attn.head_dim, dim=1))]
        outputs.append(block.attn.proj(torch.cat(heads, dim=1)))
        tokens = tokens + outputs[-1]
        tokens = tokens + block.mlp(block.norm2(tokens))
    return outputs, model.head(model.norm(tokens)[:, 0])[0]


def check_parity(model: torch.nn.Module, resolution: int) -> tuple[int, ...]:
    image, given = random_image(resolution), []
    hooks = [block.attn.register_forward_hook(lambda _, __, out: given.append(out[0])) for block in model.blocks]
    attended = attend(model, image)
    for hook in hooks:
        hook.remove()
    assert all(block.attn.fused_attn for block in model.blocks), "the model must not have the weights itself"
    outputs, logits = recomputed(model, image, attended.maps)
    for mine, theirs in zip(outputs, given, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits, attended.logits, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(model(image)[0], attended.logits), "no hook is left, and none changes a bit"
    sums = rollout(attended.maps).sum(1)
    assert (attended.maps.sum(-1) - 1).abs().max() < 1e-6
    assert (sums - 1).abs().max() < 1e-6
    return tuple(attended.maps.shape)


@pytest.mark.parametrize("name", MINIS)
def test_the_weights_reproduce_every_block_and_the_logits(name: str) -> None:
    architecture = MODELS[name]
    shape = check_parity(classifier(name).model, 32)
    assert shape == (architecture.depth, architecture.num_heads, *2 * (architecture.grid(32) ** 2 + 1,))


@pytest.mark.parametrize(("name", "resolution"), [("ViT-L_16-mini", 48), ("R50+ViT-B_16-mini", 64)])
def test_at_another_resolution(name: str, resolution: int) -> None:
    path = MINIATURES / f"{name}.npz"
    check_parity(Classifier.load(Weights(name, path, name, resolution)).model, resolution)


def test_the_check_of_parity_can_fail() -> None:
    model = classifier("ViT-B_32-mini").model
    image = random_image(32)
    attended = attend(model, image)
    _, logits = recomputed(model, image, attended.maps.flip(1))
    assert (logits - attended.logits).abs().max() > 1e-2


@pytest.mark.slow
def test_vit_b_16_in_full_has_577_tokens_of_768_features_in_12_heads_of_64() -> None:
    torch.manual_seed(0)
    model = build_model(MODELS["ViT-B_16"], num_classes=10, resolution=384).eval()
    torch.nn.init.normal_(model.head.weight)
    shapes: dict[str, tuple[int, ...]] = {}
    parts = {"qkv": model.blocks[0].attn.qkv, "patches": model.patch_embed, "norm1": model.blocks[0].norm1}
    hooks = [
        part.register_forward_hook(lambda _, __, out, name=name: shapes.update({name: tuple(out.shape)}))
        for name, part in parts.items()
    ]
    assert check_parity(model, 384) == (12, 12, 577, 577)
    assert shapes == {"patches": (1, 576, 768), "norm1": (1, 577, 768), "qkv": (1, 577, 2304)}
    assert model.blocks[0].attn.head_dim == 64
    for hook in hooks:
        hook.remove()


def test_rollout_of_two_tokens_by_hand() -> None:
    maps = torch.tensor(
        [
            [[[1.0, 0.0], [0.0, 1.0]], [[0.2, 0.8], [1.0, 0.0]]],  # mean of the heads: [.6 .4] [.5 .5]
            [[[0.5, 0.5], [0.0, 1.0]], [[0.5, 0.5], [0.0, 1.0]]],
        ]
    )
    # Half of it is the residual: [.8 .2] [.25 .75], then [.75 .25] [0 1] from the left.
    expected = torch.tensor([[0.6625, 0.3375], [0.25, 0.75]], dtype=torch.float64)
    torch.testing.assert_close(rollout(maps), expected, rtol=0, atol=1e-7)
    assert not torch.allclose(rollout(maps.flip(0)), expected, atol=1e-3), "the order of layers matters"


def test_rows_still_sum_to_one_after_32_layers() -> None:
    maps = (10 * torch.randn(32, 4, 65, 65, generator=torch.Generator().manual_seed(0))).softmax(-1)
    assert (rollout(maps).sum(1) - 1).abs().max() < 1e-12


def test_a_picture_shows_a_bright_patch_where_it_lies_and_leaves_uncovered_pixels_grey() -> None:
    from vit_trainer.inference.attention_figure import _overlays

    attended = attend(classifier("ViT-B_16-mini").model, random_image(32))
    subject = Subject("a title", -torch.ones(3, 32, 32), 24, attended, [])
    maps = torch.zeros(1, 8, 8)
    maps[0, 2, 6] = 0.01  # third row, seventh column; scaled to its own maximum
    (picture,) = _overlays(subject, maps, 32)
    redness = picture[..., 0] - picture[..., 1]
    assert np.unravel_index(redness.argmax(), redness.shape) in [(y, x) for y in (6, 7, 8) for x in (18, 19, 20)]
    assert redness.max() > 0.3
    assert np.ptp(picture[24:].reshape(-1, 3), axis=0).max() == 0
    assert np.ptp(picture[:, 24:].reshape(-1, 3), axis=0).max() == 0


def test_names_are_shown_as_they_are_even_if_they_look_like_formulas() -> None:
    attended = attend(classifier("ViT-B_32-mini").model, random_image(32))
    top = [(r"$\frac{1}$ and a name that is much too long to be shown in full", 0.9), ("_x^", 0.1)]
    content = png(Subject("$broken$ {" * 20, random_image(32)[0], 32, attended, top))
    assert content.startswith(b"\x89PNG")


def test_the_command_draws_an_image_of_any_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [png_file(tmp_path / "one.png"), png_file(tmp_path / "two.jpeg", 1)]
    for name in ("ViT-L_32-mini", "R50+ViT-B_16-mini"):
        checkpoint = ["--checkpoint", str(MINIATURES / f"{name}.npz")]
        out = output_of(["attention", *map(str, images), *checkpoint, "--output", str(tmp_path / name)], capsys)
        files = [tmp_path / name / f"{image.stem}-attention.png" for image in images]
        assert out.splitlines() == [str(file) for file in files]
        assert sorted((tmp_path / name).iterdir()) == sorted(files)
        pixels = [np.asarray(Image.open(file)) for file in files]
        assert all(min(page.shape[:2]) > 600 for page in pixels)
        assert not np.array_equal(*pixels)


def test_weights_without_a_head_are_drawn_without_predictions(
    tmp_path: Path, make_arrays: MakeArrays, capsys: pytest.CaptureFixture[str]
) -> None:
    write_npz(tmp_path / "no-head.npz", make_arrays(MODELS["ViT-B_32-mini"], grid=4, num_classes=None))
    arguments = ["attention", str(png_file(tmp_path / "a.png")), "--checkpoint", str(tmp_path / "no-head.npz")]
    assert output_of([*arguments, "--output", str(tmp_path)], capsys) == f"{tmp_path}/a-attention.png\n"


@pytest.mark.slow
def test_a_trials_figures_are_artifacts_of_its_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, run_dir = finished_trial(tmp_path)
    png_file(tmp_path / "a.png")
    arguments = ["attention", f"{tmp_path}/a.png", "--trial", config.trial_id, "--storage", str(tmp_path)]
    arguments += ["--output", str(tmp_path / "figures")]
    output_of(arguments, capsys, warning=f"not in MLflow: there is no {tmp_path}/mlflow.db; give --tracking-uri")
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    Catalogue(Storage(tmp_path), "a-sweep").add({config.trial_id: Membership("a cell", {"cell": "a cell"})})
    out = output_of([*arguments, "--tracking-uri", uri], capsys)
    assert out.endswith(f"in MLflow at {uri}: artifacts of {config.trial_id}, attention/\n")
    output_of(arguments, capsys)  # by default the storage's own store, now that it is there
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("a-sweep")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id], f"tags.trial_id = '{config.trial_id}'")
    assert run.data.metrics["test/accuracy"] == (run_dir.result() or {})["test/accuracy"]
    assert [file.path for file in client.list_artifacts(run.info.run_id, "attention")] == ["attention/a-attention.png"]
    kept = Path(client.download_artifacts(run.info.run_id, "attention/a-attention.png", str(tmp_path)))
    assert kept.read_bytes() == (tmp_path / "figures" / "a-attention.png").read_bytes()
    assert RunDir(run_dir.location).result() == run_dir.result()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a.png", "b/a.png"], "several images would become attention/a-attention.png: give them in separate calls"),
        (["a.png", "--tracking-uri", "sqlite:///x.db"], "tracking-uri is where a trial's figures go too: give --trial"),
        (["a.png", "--output", "a.png"], "cannot write to folder a.png (File exists): give another --output"),
        (["text.png"], "cannot read text.png (not an image that Pillow knows): give image files such as JPEG or PNG"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    png_file(tmp_path / "a.png")
    (tmp_path / "text.png").write_text("no image")
    checkpoint = ["--checkpoint", str(MINIATURES / "ViT-B_32-mini.npz")]
    code, _, error = outcome_of(["attention", *arguments, *checkpoint], capsys)
    assert code == 2
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert not (tmp_path / "attention").exists()


def test_the_pages_code_gives_the_shapes_that_it_says() -> None:
    failed, attempted = doctest.testfile(str(PAGE), module_relative=False)
    assert (failed, attempted >= 15) == (0, True)


def test_the_pages_figures_are_what_its_commands_draw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    text = PAGE.read_text()
    commands = re.findall(r"python -m vit_trainer (attention docs/.*) --output (docs/\S+)", text)
    figures = [tmp_path / folder / "six-attention.png" for _, folder in commands]
    for (command, _), drawn in zip(commands, figures, strict=True):
        output_of([*command.split(), "--output", str(drawn.parent)], capsys)
    shown = [PAGE.parent / name for name in re.findall(r"\]\((attention/.*png)\)", text)]
    assert [drawn.relative_to(tmp_path) for drawn in figures] == [path.relative_to(ROOT) for path in shown]
    for drawn, path in zip(figures, shown, strict=True):
        mine, theirs = (np.asarray(Image.open(file).convert("RGB"), dtype=np.int16) for file in (drawn, path))
        assert mine.shape == theirs.shape
        assert np.abs(mine - theirs).mean() < 1, "other versions may place letters otherwise, not the attention"
        assert path.stat().st_size < 200_000
