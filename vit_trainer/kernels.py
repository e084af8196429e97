"""Kernels that Inductor makes, in a folder of the node: one process makes what the others wait for and then find.

The folder is $TORCHINDUCTOR_CACHE_DIR, else one per user among the temporary files.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from filelock import FileLock


def node_folder() -> Path:
    """Where Inductor keeps what it makes on this node; it exists."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())


@contextmanager
def made_once(what: str) -> Iterator[None]:
    """Compile within this, forward and backward: one process of the node at a time, until one has done so."""
    digest = hashlib.sha256(f"{what} {torch.__version__}".encode()).hexdigest()[:16]
    made = node_folder() / f"vit-{digest}.made"  # the next processes only read, which they can at the same time
    backward_too = torch._functorch.config.patch(force_non_lazy_backward_lowering=True)
    # A gang's graph stays whole. In pieces (13 of ViT-B) it would exchange gradients during the backward pass (344 MB,
    # 2 or 3 ms over NVLink, once per step), but fuse less in each micro-batch and share nothing with a process alone.
    whole = torch._dynamo.config.patch(optimize_ddp=False)
    with nullcontext() if made.exists() else FileLock(made.with_suffix(".lock")), backward_too, whole:
        yield
    made.touch()
