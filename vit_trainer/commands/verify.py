"""python -m vit_trainer verify: our numbers against the official code's."""

from pathlib import Path


def verify(*, golden: Path | None = None, full: bool = True) -> int:
    """Prove parity: compare every number that matters with what the official code computed.

    Exits with 0 if all hold, 1 if one doesn't.

    Parameters
    ----------
    golden
        Folder of golden values; the one that comes with the project unless given.
    full
        Whether to run the full-size models too, most of the time that this takes.
    """
    from vit_trainer.parity.golden import SHIPPED, GoldenFolder

    folder = GoldenFolder(golden or SHIPPED)
    from vit_trainer.parity.ladder import print_ladder

    return 0 if print_ladder(folder, full=full) else 1
