import numpy as np
import pytest
import torch

from vit_trainer.architectures import MODELS, Architecture
from vit_trainer.errors import CheckpointError
from vit_trainer.model.build import build_model
from vit_trainer.weights.layouts import to_arrays, to_parameters
from vit_trainer.weights.load import export_arrays, load_arrays, pretrained_model
from vit_trainer.weights.npz_files import read_npz, write_npz
from vit_trainer.weights.npz_layout import POSITION_EMBEDDING, check_fits

VIT, HYBRID = MODELS["ViT-B_16-mini"], MODELS["R50+ViT-B_16-mini"]


@pytest.mark.parametrize("architecture", [VIT, HYBRID], ids=["vit", "hybrid"])
@pytest.mark.parametrize("resolution", [32, 64])
def test_our_loader_agrees_with_timms_but_for_head_and_position_embedding(
    tmp_path, make_arrays, architecture, resolution
):
    arrays = make_arrays(architecture, grid=architecture.grid(32))
    write_npz(tmp_path / "a.npz", arrays)
    ours = build_model(architecture, num_classes=10, resolution=resolution)
    theirs = build_model(architecture, num_classes=10, resolution=resolution)
    load_arrays(ours, architecture, arrays)
    theirs.load_pretrained(str(tmp_path / "a.npz"))
    expected = theirs.state_dict()
    for name, tensor in ours.state_dict().items():
        if name in ("head.weight", "head.bias"):
            assert not tensor.any()
            assert expected[name].any()
        elif name == "pos_embed" and resolution != 32:
            assert not torch.allclose(tensor[:, 1:], expected[name][:, 1:])
            assert torch.equal(tensor[:, :1], expected[name][:, :1])
        else:
            assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("architecture", [VIT, HYBRID, Architecture(8, 32, 1, 2, 64)], ids=["vit", "hybrid", "tiny"])
@pytest.mark.parametrize("representation_size", [None, 40])
def test_a_file_goes_through_a_model_bit_by_bit(make_arrays, architecture, representation_size):
    arrays = make_arrays(architecture, grid=architecture.grid(32), representation_size=representation_size)
    model = build_model(architecture, num_classes=10, resolution=32, representation_size=representation_size)
    load_arrays(model, architecture, arrays, keep_head=True)
    for back in (export_arrays(model, architecture), to_arrays(to_parameters(arrays, architecture), architecture)):
        assert list(back) == list(arrays)
        assert all(np.array_equal(back[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize("name", [name for name in MODELS if name.endswith("-mini")])
def test_every_miniature_writes_files_of_its_own_kind(name):
    arrays = export_arrays(build_model(MODELS[name], num_classes=7, resolution=32), MODELS[name])
    contents = check_fits({name: array.shape for name, array in arrays.items()}, MODELS[name])
    assert (contents.num_classes, contents.representation_size) == (7, None)
    assert contents.resolution(MODELS[name]) == 32


@pytest.fixture
def file_21k(tmp_path, make_arrays):
    path = tmp_path / "21k.npz"
    write_npz(path, make_arrays(VIT, grid=8, num_classes=21, representation_size=40))
    return path


def test_a_new_head_is_zero_and_has_no_pre_logits(file_21k):
    for num_classes in (5, 21):  # also where the count agrees with the file's
        model = pretrained_model("ViT-B_16-mini", file_21k, resolution=32, num_classes=num_classes)
        assert model.head.weight.shape == (num_classes, VIT.width)
        assert not any(parameter.any() for parameter in model.head.parameters())


def test_a_kept_head_has_its_pre_logits(file_21k):
    model = pretrained_model("ViT-B_16-mini", file_21k, resolution=32).eval()
    arrays = read_npz(file_21k)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.inference_mode():
        features = model.forward_head(model.forward_features(images), pre_logits=True).numpy()
        logits = model(images).numpy()
    hidden = np.tanh(features @ arrays["pre_logits/kernel"] + arrays["pre_logits/bias"])
    np.testing.assert_allclose(logits, hidden @ arrays["head/kernel"] + arrays["head/bias"], rtol=0, atol=1e-5)
    assert logits.shape == (2, 21)


def test_a_head_that_is_not_there_or_does_not_fit_cannot_be_kept(tmp_path, make_arrays, file_21k):
    write_npz(tmp_path / "headless.npz", make_arrays(VIT, grid=8, num_classes=None))
    with pytest.raises(CheckpointError, match=r"headless\.npz has no head to keep: give a file with head/kernel"):
        pretrained_model("ViT-B_16-mini", tmp_path / "headless.npz", resolution=32)
    assert pretrained_model("ViT-B_16-mini", tmp_path / "headless.npz", resolution=32, num_classes=3)
    model = build_model(VIT, num_classes=21, resolution=32)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(
        CheckpointError, match="cannot be kept: it has 21 classes and 40 pre_logits, the model 21 and no"
    ):
        load_arrays(model, VIT, read_npz(file_21k), keep_head=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_position_embeddings_are_resized_linearly_with_the_corners_kept(make_arrays):
    arrays = make_arrays(VIT, grid=3)
    table = np.arange(9, dtype=np.float32)[:, None] * np.ones(VIT.width, np.float32)
    arrays[POSITION_EMBEDDING] = np.concatenate([np.full((1, VIT.width), -7, np.float32), table])[None]
    model = build_model(VIT, num_classes=2, resolution=20)  # a grid of 5
    load_arrays(model, VIT, arrays)
    resized = model.pos_embed[0, :, 0].detach()
    assert resized[0] == -7
    steps = torch.arange(5) / 2
    torch.testing.assert_close(resized[1:].view(5, 5), 3 * steps[:, None] + steps)


def test_other_numbers_than_float32_are_refused(make_arrays):
    arrays = make_arrays(VIT, grid=8)
    arrays["cls"] = arrays["cls"].astype(np.float16)
    with pytest.raises(CheckpointError, match="cls is float16, not float32"):
        load_arrays(build_model(VIT, num_classes=2, resolution=32), VIT, arrays)
