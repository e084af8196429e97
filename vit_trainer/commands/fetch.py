"""python -m vit_trainer fetch: official checkpoints and data sets from the web or a mirror."""

from vit_trainer.architectures import MODELS
from vit_trainer.data.datasets import DATASETS, data_folder
from vit_trainer.data.load import require_dataset
from vit_trainer.errors import InputError, one_of


def fetch(*names: str, upstream: str = "imagenet21k", source: str | None = None) -> None:
    """Download official checkpoints into $VIT_CHECKPOINTS and data sets into $VIT_DATA, and check them.

    Both are in the user's cache folder unless set. Goes on with what broke off; several processes or nodes may ask at
    once.

    Parameters
    ----------
    names
        Models such as ViT-B_16, and data sets such as cifar10.
    upstream
        imagenet21k, imagenet21k+imagenet2012, or imagenet21k+imagenet2012-224.
    source
        A folder, web address or bucket (s3://bucket/folder) of one's own to fetch from, with files as they are to lie
        in those two folders: imagenet21k/ViT-B_16.npz, cifar-10-python.tar.gz, oxford_pets/images.tar.gz,
        imagenet2012/train/; or the one file that is needed. They are checked as the published ones.
    """
    from vit_trainer.files.progress_bar import ProgressBar
    from vit_trainer.weights.fetch import fetch as fetch_checkpoint
    from vit_trainer.weights.npz_files import RELEASED, check_checkpoint

    if not names:
        raise InputError(f"no name given: give one or more of {', '.join([*RELEASED['imagenet21k'], *DATASETS])}")
    for name in names:
        if name not in MODELS and name not in DATASETS:
            raise one_of("model or data set", name, [*MODELS, *DATASETS])
    for dataset in (name for name in names if name in DATASETS):
        require_dataset(dataset, source=source)
        print(f"{dataset}: complete in {data_folder()}", flush=True)
    for model in (name for name in names if name in MODELS):
        with ProgressBar(f"{upstream}/{model}") as bar:
            path, downloaded = fetch_checkpoint(model, upstream, source=source, watcher=bar)
        contents, size = check_checkpoint(path, model), path.stat().st_size
        print(
            f"{path}: {model}, {contents.resolution(MODELS[model])} px, {contents.num_classes or 'no'} classes, "
            f"{size / 1e6:.1f} MB" + ("" if downloaded else ", was there already"),
            flush=True,
        )
