"""python -m vit_trainer verify: our numbers against the official code's."""

import os
from pathlib import Path
from typing import Literal

from vit_trainer.errors import InputError


def verify(
    *,
    golden: Path | None = None,
    full: bool = True,
    device: Literal["cpu", "cuda"] = "cpu",
    precision: Literal["float32", "bfloat16", "both"] | None = None,
    compile: bool | None = None,
    short: bool = False,
) -> int:
    """Prove parity: compare every number that matters with what the official code computed.

    Exits with 0 if all hold, 1 if one doesn't.

    Parameters
    ----------
    golden
        Folder of golden values; the one that comes with the project unless given.
    full
        Whether to run the full-size models too, most of the time that this takes.
    device
        Where to compute: cpu, or cuda for the first GPU.
    precision
        float32, bfloat16 with the bounds that its roundings derive, or both; both on a GPU, float32 on a CPU.
    compile
        Whether to compile a model too, which takes a minute or two; only on a GPU unless given.
    short
        Leave out what takes long, what is compiled and the interrupted run; on a GPU with wider bounds in float32. A
        sweep runs this on each node with GPUs before it starts.
    """
    on_gpu = device == "cuda"
    if not on_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the last rung's trial would take a GPU that it finds
    import torch

    if on_gpu and not torch.cuda.is_available():
        raise InputError(
            "no GPU that PyTorch can use here: give --device cpu, or look at python -m vit_trainer.machine"
        )
    from vit_trainer.parity.golden import SHIPPED, GoldenFolder

    folder = GoldenFolder(golden or SHIPPED)
    from vit_trainer.parity.ladder import Climb, print_ladder

    climb = Climb(
        device,
        precision or ("both" if on_gpu else "float32"),
        full=full and not short,
        short=short,
        compiled=not short and (on_gpu if compile is None else compile),
    )
    return 0 if print_ladder(folder, climb) else 1
