"""python -m vit_trainer pack: a folder of classes as shards, to be read from a bucket or a folder."""

from vit_trainer.data.datasets import dataset_id, folder_of, is_folder
from vit_trainer.errors import InputError, counted


def pack(dataset: str, *, output: str, shard_megabytes: int = 1000) -> None:
    """Pack a folder of classes into tar files of about 1 GB with an index, for training from a bucket.

    Every image stays as it is, and so does what trials on it are called. Killed, the same command goes on.

    For example
      python -m vit_trainer pack imagenet2012 --output s3://bucket/imagenet2012
      python -m vit_trainer pack ./pets --output s3://bucket/pets
      python -m vit_trainer train --model ViT-B_16 --dataset s3://bucket/pets

    Parameters
    ----------
    dataset
        imagenet2012, from $VIT_DATA, or the path of a folder with train/ and val/ (or test/) class folders.
    output
        An empty folder, or a bucket's URI such as s3://bucket/folder.
    shard_megabytes
        Size of a tar file at most, in millions of bytes; two are in memory at a time.
    """
    from vit_trainer.data.shards.packing import pack as write_shards
    from vit_trainer.files.progress_bar import ProgressBar

    if shard_megabytes < 1:
        raise InputError(f"shard_megabytes {shard_megabytes} is below 1: give such as 1000")
    if is_folder(dataset):
        folders = folder_of(dataset)
    elif dataset == "imagenet2012":
        from vit_trainer.data.families.imagenet import whole_folder

        folders = whole_folder(dataset)
    else:
        raise InputError(
            f"dataset {dataset} cannot be packed: give imagenet2012, or a folder of classes as ./{dataset}"
        )
    if folders.unreadable:
        path, reason = next(iter(folders.unreadable.items()))
        raise InputError(f"cannot read {folders.root / path} ({reason}): put it right or take it away")
    with ProgressBar(f"packing {folders.root.resolve().name}") as bar:
        header = write_shards(folders, dataset_id(dataset), output, 10**6 * shard_megabytes, bar)
    images = counted(sum(header.num_images.values()), "image")
    print(
        f"{header.id}: {images} in {counted(len(header.shards), 'shard')}, {header.num_bytes / 1e9:.2f} GB, in {output}"
    )
