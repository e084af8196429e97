"""Check node: are this machine's GPUs, disk and memory whole? Asked before it joins a cluster; twenty seconds.

Command: vit-sweeps check-node --gpus 8 --terminate, in the cluster files before `ray start`
"""

import sys
import syslog
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.checks.finding import print_finding
from sweeps.checks.new_node import check_new_node, give_back, refusal
from vit_trainer.command_line import command_of, new_app, run
from vit_trainer.errors import InputError
from vit_trainer.files.location import user_cache

app = new_app("Checks this machine before it joins a cluster: a line per check.", name=command_of("check_node"))


@app.default
def check_node(
    *,
    gpus: int | None = None,
    folder: Path | None = None,
    free_gb: float = 5.0,
    terminate: Annotated[bool, Parameter(negative=())] = False,
) -> int:
    """Check this machine, which should do nothing else meanwhile. Exits with 0 if it may join, else with 1.

    Args:
        gpus: As many it must have; whatever its driver has unless given.
        folder: On the disk to check; where weights and data sets lie unless given.
        free_gb: At least so many gigabytes must be free there.
        terminate: Shut it down if it may not join: a cloud's machine, which is then paid no longer.
    """
    if gpus is not None and gpus < 0:
        raise InputError(f"gpus {gpus}: give how many this machine should have, such as 8, or 0")
    if not 0 <= free_gb < float("inf"):
        raise InputError(f"free_gb {free_gb:g}: give gigabytes from 0 on, such as 5")
    findings = []
    for finding in check_new_node(folder or user_cache("data"), gpus, free_gb):
        print_finding(finding)
        findings.append(finding)
    why = refusal(findings)
    if not why:
        return 0
    print(why, file=sys.stderr)
    syslog.syslog(syslog.LOG_ERR, why)
    if terminate:
        problem = give_back(why)
        print(f"it can't shut down: {problem}" if problem else "it shuts down in a minute", file=sys.stderr)
    return 1


if __name__ == "__main__":
    run(app)
