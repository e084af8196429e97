"""Launch: the whole way of a sweep to a cluster: the doctor, the plan and a question, `ray up`, the job.

The same command once more is safe: a cluster that is up is used as it is, and a sweep that runs isn't sent twice.
Command: python sweeps/launch.py clusters/a100.yaml -- paper_grid.py --preset paper --storage s3://BUCKET/vit-sweeps
"""

import io
import os
import re
import shlex
import sys
import time
from contextlib import redirect_stdout
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

if not __package__:  # started as a script, from any folder
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from sweeps.cluster.launched import DASHBOARD, ROOT, TOKEN, Launched, Tunnel, quietly
from sweeps.doctor import doctor
from sweeps.options import SweepOptions
from sweeps.running.idle import PATIENCE
from vit_trainer.architectures import MODELS
from vit_trainer.command_line import INTERRUPTED, command_of, new_app, run
from vit_trainer.data.datasets import dataset_info
from vit_trainer.errors import InputError, VitTrainerError, one_of
from vit_trainer.files.location import is_uri, split_uri

app = new_app(
    "Launches a cluster and sends it a sweep: looks at the file, asks about the plan, starts, submits.",
    name=command_of("launch"),
)

MLFLOW = "http://127.0.0.1:5000"
"""Where heads have it, by clusters/mlflow.sh."""
LIVE = ("PENDING", "RUNNING")
SECONDS_TO_FIND, SECONDS_TO_START, SECONDS_TO_BEGIN = 60.0, 120.0, 120.0
"""For how long a head may be silent that may be up, that `ray up` has started; a job wait for its process."""


@app.default
def launch(
    cluster: Path, sweep: str, /, *flags: Annotated[str, Parameter(allow_leading_hyphen=True)], yes: bool = False
) -> int:
    """Bring a sweep to a cluster; what is done of that already stays as it is.

    Args:
        cluster: A file for `ray up`, such as clusters/a100.yaml.
        sweep: Which of the sweeps, such as paper_grid.py.
        flags: Those of the sweep, after --, with its --storage.
        yes: Answer the question after the plan.
    """
    way = _Way(Launched.of(cluster), sweep, flags, yes=yes)
    way.check()
    if not TOKEN.expanduser().exists():
        print(f"{TOKEN} is made: who has it may use the cluster")
        quietly("sh", "-c", "umask 077; ray get-auth-token --generate > /dev/null")
    if doctor(cluster=cluster, storage=way.storage if is_uri(way.storage) else None):
        print("nothing was started: mend what has failed", file=sys.stderr)
        return 1
    try:
        return way.go()
    except VitTrainerError as error:
        raise type(error)(f"{error}; {way.standing}") from error
    except KeyboardInterrupt:
        print(f"\ninterrupted: {way.standing}", file=sys.stderr)
        return INTERRUPTED


class _Way:
    """A sweep's way to a cluster."""

    def __init__(self, launched: Launched, sweep: str, flags: tuple[str, ...], *, yes: bool) -> None:
        self.launched, self.yes = launched, yes
        scripts = sorted((ROOT / "sweeps").glob("*.py"))
        names = [path.name for path in scripts if "\n    return run_sweep(" in path.read_text()]
        if (name := Path(sweep).name) not in names:
            raise one_of("sweep", sweep, names)
        self.name, self.flags = name.removesuffix(".py"), [*flags]
        if "mlflow.sh" in str(launched.config) and not any(flag.startswith("--tracking-uri") for flag in flags):
            self.flags += ["--tracking-uri", MLFLOW]
        passed_on = ["env", f"{PATIENCE}={os.environ[PATIENCE]}"] if PATIENCE in os.environ else []
        self.entry = shlex.join([*passed_on, "python", f"sweeps/{name}", *self.flags])
        _, bound, _ = self._app.parse_args(self.flags, exit_on_error=False, print_error=False)
        found = [value for value in bound.arguments.values() if isinstance(value, SweepOptions)]
        self.options = found[0] if found else SweepOptions()
        self.storage = self.options.storage
        self.standing = "nothing was started"

    @cached_property
    def _app(self) -> App:
        found: App = import_module(f"sweeps.{self.name}").app
        return found

    def check(self) -> None:
        """Raise InputError for whatever can be known to go wrong before anything is started or written."""
        options = self.options
        if not (ROOT / "pyproject.toml").is_file():
            raise InputError("nodes get the project's folder, which isn't here: launch from a checkout")
        if options.plan:
            raise InputError("--plan is shown before anything starts: leave it out, and answer the question")
        if is_uri(self.storage):
            if split_uri(self.storage, "storage").netloc == "BUCKET":
                raise InputError(f"storage {self.storage} names no bucket yet: write yours in place of BUCKET")
        elif not Path(self.storage).is_absolute():
            raise InputError(
                f"storage {self.storage} would be a folder of one machine, gone with the job: give --storage "
                "s3://my-bucket/vit-sweeps, or the whole path of a folder that all nodes share"
            )
        for model in options.models:
            if model not in MODELS:
                raise one_of("model", model, list(MODELS))
        for dataset in options.datasets:
            dataset_info(dataset)  # raises unless it is known
        if not self.yes and not sys.stdin.isatty():
            raise InputError("no terminal to answer at: give --yes before the -- to go on without a question")
        if not is_uri(self.storage):
            print(f"storage {self.storage}: all nodes must share that folder")

    def go(self) -> int:
        """From a cluster in whatever state to a sweep that runs."""
        launched, path = self.launched, self.launched.path
        if launched.has_head():
            with launched.tunnel() as tunnel:
                jobs = tunnel.jobs(SECONDS_TO_FIND, is_up=False)
                if jobs is not None:
                    print(f"{launched.name} is up and used as it is; after a change of code or file: ray up {path}")
                    return self._send(tunnel, jobs, has_agreed=False)
            if not launched.has_own_hosts:
                self.standing = f"a head is there whose dashboard doesn't answer; {self._costs}"
        if not launched.has_own_hosts and not self._agrees(f"Launch {path} and run this there?"):
            return 1
        self.standing = f"`ray up` has begun; {self._costs}; the same command goes on"
        launched.up()
        self.standing = f"`ray up` has ended; {self._costs}; the same command goes on"
        with launched.tunnel() as tunnel:
            jobs = tunnel.jobs(SECONDS_TO_START, is_up=True)
            if jobs is None:
                raise VitTrainerError("the tunnel to its dashboard has ended, or nothing answers there")
            return self._send(tunnel, jobs, has_agreed=not launched.has_own_hosts)

    def _send(self, tunnel: Tunnel, jobs: list[dict[str, Any]], *, has_agreed: bool) -> int:
        """Submit the sweep, unless it runs."""
        launched, storage = self.launched, re.compile(rf"[ =]{re.escape(shlex.quote(self.storage))}( |$)")
        for job in jobs:
            entry, name = job["entrypoint"], job["submission_id"] or job["job_id"]
            if job["status"] in LIVE and f"{self.name}.py" in entry and storage.search(entry):
                if entry != self.entry:
                    end = self._tool("stop")
                    raise InputError(
                        f"{name} runs there with other flags ({entry}): give those, or stop it first: {end}"
                    )
                self._say_how_to_go_on(f"{name} runs already; nothing was sent", name)
                return 0
        self.standing = f"{launched.name} is up, and no sweep was sent; {self._costs}; the same command goes on"
        if not has_agreed and not self._agrees(f"Run this on {launched.name}?"):
            return 1
        taken, number = {job["submission_id"] for job in jobs}, 1
        while (name := f"{self.name}-{number}") in taken:
            number += 1
        self.standing = f"{name} may have been sent; {self._costs}; the same command says so, or sends it"
        submit = ["ray", "job", "submit", "--address", tunnel.address, "--working-dir", ".", "--no-wait"]
        done = quietly(*submit, "--submission-id", name, "--", *shlex.split(self.entry))
        if done.returncode:
            print(f"{done.stdout}{done.stderr}", file=sys.stderr)
            raise VitTrainerError("`ray job submit` has failed, as it says above")
        self.standing = f"{name} was sent; {self._costs}"
        begun = self._wait_for(tunnel, name)
        self._say_how_to_go_on(f"{name} is sent to {launched.name}{begun}; this terminal isn't needed any more", name)
        return 0

    def _wait_for(self, tunnel: Tunnel, name: str) -> str:
        """The line with which the sweep begins; VitTrainerError if its job fails before."""
        until = time.monotonic() + SECONDS_TO_BEGIN
        while time.monotonic() < until:
            jobs = tunnel.jobs(SECONDS_TO_FIND, is_up=True) or []
            lines = [line for line in tunnel.said(name).splitlines() if line.strip()]
            if begun := [line for line in lines if " of them done, in " in line]:
                return f" ({begun[0]})"
            status = next((job["status"] for job in jobs if job["submission_id"] == name), "")
            if status in ("FAILED", "STOPPED"):
                raise VitTrainerError(f"{name} couldn't begin: {(lines or ['it says nothing'])[-1]}")
            if status == "SUCCEEDED" or tunnel.process.poll() is not None:
                break
            time.sleep(1)
        return ", and has said nothing yet"

    def _plan(self) -> str:
        """What --plan says for the cluster: from its file, or on the head among one's own hosts."""
        if not self.launched.has_own_hosts:
            with redirect_stdout(io.StringIO()) as text:
                tokens = [*self.flags, "--plan", "--cluster", str(self.launched.path)]
                self._app(tokens, exit_on_error=False, print_error=False)
            return text.getvalue()
        done = self.launched.on_head(f"{self.entry} --plan")
        if done.returncode:
            reason = next((line for line in done.stderr.splitlines() if line.startswith("error: ")), done.stderr)
            raise InputError(f"the head plans nothing: {reason.removeprefix('error: ')}")
        return done.stdout

    def _agrees(self, question: str) -> bool:
        """Show what the plan comes to and ask; only y and yes are one, after all else it is said how things stand."""
        where = ", on the head" if self.launched.has_own_hosts else f" --cluster {self.launched.path}"
        print(self._plan().partition("\n\n")[0], f"all of it: {self.entry} --plan{where}", sep="\n")
        if self.yes:
            return True
        print(f"{question} [y/N] ", end="", flush=True)
        agrees = sys.stdin.readline().strip().lower() in ("y", "yes")
        print("" if agrees else self.standing)
        return agrees

    @property
    def _costs(self) -> str:
        path = self.launched.path
        if self.launched.has_own_hosts:
            return f"your hosts run Ray until they are stopped as {path} says"
        return f"a head costs money until `ray down {path}`"

    def _tool(self, name: str) -> str:
        storage = shlex.quote(self.storage)
        if is_uri(self.storage):
            return f"{command_of(name)} --storage {storage}"
        inside = f"python vit-sweeps/sweeps/{name}.py --storage {storage}"
        return f"ray exec {self.launched.path} {shlex.quote(inside)}"

    def _say_how_to_go_on(self, first: str, job: str) -> None:
        path = self.launched.path
        for what, how in {
            "watch": self._tool("watch"),
            "its output": f"ray exec {path} 'ray job logs --follow --address {DASHBOARD} {job}'",
            "MLflow": f"ray attach {path} --port-forward 5000, and while that is open http://localhost:5000",
            "stop": f"{self._tool('stop')}, which keeps all states",
            "go on": "the same command as now",
            "end": f"ray down {path}; {self._costs}",
        }.items():
            first += f"\n  {what:<11} {how}"
        print(first)


if __name__ == "__main__":
    run(app)
