"""Doctor: is everything there that a sweep needs? A line per check, what has failed first and with what to do.

With a cluster file it looks at what launching that needs, from a laptop. Without one it looks at each node of the
running Ray cluster (as a job, or on its head), or at this machine if there is none. It starts nothing and changes
nothing; only a small file goes through the storage.

Command: python sweeps/doctor.py --cluster clusters/a100.yaml
"""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.checks.finding import STYLES, Finding, fail, print_finding, warn
from sweeps.options import SweepOptions
from sweeps.planning.candidates import grid_of
from sweeps.records.left_states import left_behind
from sweeps.table.cells import cells_of
from vit_trainer.command_line import TrackingUri, command_of, new_app, run
from vit_trainer.errors import InputError, reason_of
from vit_trainer.files.location import folder_location
from vit_trainer.files.progress_bar import at_work

app = new_app("Checks what a sweep needs: a line per check, exit code 1 if one has failed.", name=command_of("doctor"))

_SEVERAL = Parameter(consume_multiple=True, negative=(), show_default=False)


@app.default
def doctor(
    *,
    cluster: Path | None = None,
    preset: Literal["auto", "paper", "mini"] = "auto",
    models: Annotated[tuple[str, ...], _SEVERAL] = (),
    datasets: Annotated[tuple[str, ...], _SEVERAL] = (),
    storage: str | None = None,
    tracking_uri: TrackingUri = None,
) -> int:
    """Look at a cluster file, or at the running cluster.

    Parameters
    ----------
    cluster
        A cluster file such as clusters/a100.yaml: is it safe, and can it be launched from here?
    preset
        Whose checkpoints and data sets must be in place on nodes; auto: the paper's if there are GPUs.
    models
        Only the checkpoints of these, such as ViT-B_16.
    datasets
        Only these, such as cifar10, or the paths of folders of classes.
    storage
        Folder or URI of the run folders, which is tried; sweep-results unless given.
    tracking_uri
        MLflow server or store, which is tried.
    """
    options = SweepOptions(preset=preset, models=models, datasets=datasets, storage=storage or SweepOptions.storage)
    if isinstance(folder_location(options.storage), Path):  # raises where none can be
        _ = tracking_uri or options.opened_storage.tracking_uri
    with at_work("looking"):
        found = list(_findings(cluster, options, storage, tracking_uri))
    for finding in (finding for kind in STYLES for finding in found if finding.kind == kind):
        print_finding(finding)
    return 1 if any(finding.kind == "FAIL" for finding in found) else 0


def _findings(
    cluster: Path | None, options: SweepOptions, storage: str | None, tracking_uri: str | None
) -> Iterator[Finding]:
    if cluster is None:
        yield from _check_nodes(options)
    else:
        from sweeps.checks.before_launch import check_launch

        yield from check_launch(cluster)
        if storage is not None:
            from sweeps.checks.on_nodes import check_bucket

            yield from check_bucket(storage)
    if tracking_uri is not None:
        from sweeps.checks.on_nodes import check_tracking

        yield check_tracking(tracking_uri)


def _check_nodes(options: SweepOptions) -> Iterator[Finding]:
    from sweeps.checks.inputs import Inputs
    from sweeps.checks.on_nodes import Asked, check_nodes
    from sweeps.cluster.join import count_gpus

    try:
        num_gpus = count_gpus()  # joins the cluster if there is one
    except InputError as error:
        yield fail("Ray", str(error))
        return
    except Exception as error:  # Ray's own words for other versions, or a token that is missing or wrong
        yield fail("Ray", f"can't join the cluster ({reason_of(error)})")
        return
    preset = options.preset if options.preset != "auto" else "paper" if num_gpus else "mini"
    cells = cells_of(grid_of(options, preset))
    storage = options.opened_storage
    yield from check_nodes(Asked(storage.location, Inputs.of(cells)))
    with suppress(OSError):  # said above
        if left := left_behind(storage):
            yield warn("checkpoints", left)


if __name__ == "__main__":
    run(app)
