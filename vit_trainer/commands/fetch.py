"""python -m vit_trainer fetch: official checkpoints and data sets from the web or a mirror."""

import os
from pathlib import Path

from vit_trainer.architectures import MODELS
from vit_trainer.data.datasets import DATASETS, data_folder
from vit_trainer.data.load import published_files, require_dataset
from vit_trainer.errors import InputError, one_of
from vit_trainer.files.download import Check


def fetch(*names: str, upstream: str = "imagenet21k", source: str | None = None, to: str | None = None) -> None:
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
    to
        A folder or bucket of one's own to put the files into too, once, from which nodes then fetch with --source.
        What is there already isn't sent again.
    """
    from vit_trainer.files.progress_bar import ProgressBar
    from vit_trainer.weights.fetch import fetch as fetch_checkpoint
    from vit_trainer.weights.fetch import require_upstream
    from vit_trainer.weights.npz_files import RELEASED, check_checkpoint

    if not names:
        raise InputError(f"no name given: give one or more of {', '.join([*RELEASED['imagenet21k'], *DATASETS])}")
    for name in names:
        if name not in MODELS and name not in DATASETS:
            raise one_of("model or data set", name, [*MODELS, *DATASETS])
    datasets, models = ([name for name in dict.fromkeys(names) if name in known] for known in (DATASETS, MODELS))
    for model in models:
        require_upstream(model, upstream, source)
    if to is not None:
        _fill(to, datasets, models, upstream, source)
        return
    for dataset in datasets:
        require_dataset(dataset, source=source)
        print(f"{dataset}: complete in {data_folder()}", flush=True)
    for model in models:
        with ProgressBar(f"{upstream}/{model}") as bar:
            path, downloaded = fetch_checkpoint(model, upstream, source=source, watcher=bar)
        contents, size = check_checkpoint(path, model), path.stat().st_size
        print(
            f"{path}: {model}, {contents.resolution(MODELS[model])} px, {contents.num_classes or 'no'} classes, "
            f"{size / 1e6:.1f} MB" + ("" if downloaded else ", was there already"),
            flush=True,
        )


def _fill(to: str, datasets: list[str], models: list[str], upstream: str, source: str | None) -> None:
    """Put what is here, after it was fetched where it isn't, into a mirror; a line for each file."""
    from vit_trainer.files.mirror import open_mirror, send
    from vit_trainer.files.progress_bar import ProgressBar
    from vit_trainer.files.published import fetch_published
    from vit_trainer.weights.fetch import check_of
    from vit_trainer.weights.fetch import fetch as fetch_checkpoint
    from vit_trainer.weights.npz_files import cache_folder, released_name

    for dataset in datasets:
        if not DATASETS[dataset].family.is_downloaded:
            advice = (
                f"pack it: python -m vit_trainer pack {dataset} --output {to.rstrip('/')}/{dataset}"
                if DATASETS[dataset].family.in_files
                else "leave it out, it comes with scikit-learn"
            )
            raise InputError(f"{dataset} has no published files to put into {to}: {advice}")
    mirror = open_mirror(to, data_folder(), cache_folder(), *([source] if source else []))

    def put(name: str, path: Path, check: Check) -> None:
        with ProgressBar(f"to {name}") as bar:
            sent = send(path, mirror, name, check=check, watcher=bar)
        size = f"{path.stat().st_size / 1e6:.1f} MB" + ("" if sent else ", was there already")
        print(f"{mirror.child(name).location.partition('?')[0]}: {size}", flush=True)

    for dataset in datasets:
        for name, file in published_files(dataset).items():
            path = data_folder() / name
            fetch_published(file.at(source, os.path.dirname(name)), path.parent)
            put(name, path, file.check)
    for model in models:
        with ProgressBar(f"{upstream}/{model}") as bar:
            path, _ = fetch_checkpoint(model, upstream, source=source, watcher=bar)
        put("/".join(released_name(model, upstream)), path, check_of(model, upstream))
