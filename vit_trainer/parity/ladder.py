"""The ladder of `python -m vit_trainer verify`: our numbers against what the official code computed, rung by rung.

Every rung runs the code that training runs, on the CPU in float32. The bounds are what rounding needs; the smallest
known mistake of each kind is above them, and a test makes each one.
"""

from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from vit_trainer.errors import InputError
from vit_trainer.parity.forward_pass import forward, full_size, position_embeddings
from vit_trainer.parity.golden import GoldenFolder
from vit_trainer.parity.pixels import crops, pixels
from vit_trainer.parity.rung import Rung
from vit_trainer.parity.updates import finetuning, schedule, updates


def ladder(golden: GoldenFolder, *, full: bool = True) -> Iterator[Rung]:
    """Every rung in order, each computed when it is asked for.

    Args:
        full: whether to run the full-size models too.

    Raises:
        InputError: a file of the folder is damaged, or doesn't fit its meta.json.
    """
    yield from schedule(golden)
    yield from position_embeddings(golden)
    for name in golden.architectures:
        yield from forward(golden, name)
    yield from full_size(golden) if full else [Rung("logits of full-size models", None, note="not asked for")]
    for name in golden.architectures:
        yield from updates(golden, name)
    yield from finetuning(golden)
    yield from pixels(golden)
    yield from crops(golden)


def print_ladder(golden: GoldenFolder, *, full: bool = True) -> bool:
    """Print a line per rung as it is climbed, and a last one that counts them; whether all hold.

    Raises:
        InputError: the folder holds nothing to compare with, or see `ladder`.
    """
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"{'rung':<48}{'error':>9}{'bound':>9}", style="bold")
    rungs = []
    for rung in ladder(golden, full=full):
        rungs.append(rung)
        style, verdict = (
            ("yellow", "skipped") if rung.skipped else ("green", "pass") if rung.passed else ("red", "FAIL")
        )
        error, bound = ("", "") if rung.error is None else (f"{rung.error:.1e}", f"{rung.bound:.0e}")
        line = Text(f"{rung.name:<48}{error:>9}{bound:>9}  ").append(verdict, style)
        console.print(line.append(f"  {rung.note}" if rung.note else ""))
    compared = [rung for rung in rungs if not rung.skipped]
    failed = [rung for rung in compared if not rung.passed]
    if not compared:
        raise InputError(f"{golden.path} holds nothing to compare with: give a folder laid out like the project's own")
    summary = f"{len(compared) - len(failed)} of {len(compared)} rungs hold, {len(rungs) - len(compared)} skipped"
    console.print(summary, style="red" if failed else "green")
    return not failed
