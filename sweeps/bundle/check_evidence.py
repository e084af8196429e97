"""Checks a bundle of evidence: recomputes what its report claims from what its runs left. Python and NumPy alone.

    python check_evidence.py [evidence.zip or its unpacked folder]      (unless given: the folder of this file)

Prints a line per claim: `holds`, `differs: how`, or `can't be checked: why`. Exit code 0 if none differs, 1 if any,
2 if this is no bundle. What is computed, and from what: hashes of all files; each trial's id, the hash of its config;
that journals follow in time, steps and hours, and that whatever is named is here; accuracies, by counting predictions
that are labels; decisions at rungs, from journals; the choice in each cell, verdicts (two one-sided t tests against
the margin, with the pooled spread; Holm's test over all cells), hours, and that the report's tables say so.

What no check of a bundle can find is its author's consistent lie: predictions that no model made, a trial that is
mentioned nowhere, journals that were made up as a whole. Pages and charts are for reading: what is vouched for is
printed here. Where in doubt, take this checker from the project, not from the bundle.
"""

import csv
import hashlib
import io
import json
import math
import re
import sys
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath
from statistics import fmean, stdev

import numpy as np

MAX_BYTES, MAX_FILES = 2**31, 200_000
NO_CLASS, SIGNIFICANCE, MAX_SEEDS = 65535, 0.05, 100
MARGINS = {"cifar10": 0.002, "cifar100": 0.006, "imagenet2012": 0.003, "oxford_pets": 0.006, "oxford_flowers102": 0.001}
PUBLISHED = "63cdac607886aef8c3cc523b36d9b2656342214c6ef59a760b1c8c7f7206d641"  # root hash of published/*.csv
TABLES = ("official", "paper", "reimplementation", "replicates")
CELL = ("upstream", "model", "dataset", "resolution", "total_steps", "warmup_steps", "global_batch_size", "dropout")
STATUSES = ("finished", "stopped", "failed", "unfinished")
RUNG = r"rung of (\d+) candidates at step (\d+): val/accuracy \S+ is number (\d+) of \1, of which the best (\d+) "
RUNG += r"go(?:es)? on(?:; as the published one it goes on too)?"
PASSED_OVER = "its learning rate was not among those that went on"  # of a further seed of such a candidate
SLACK = 60.0  # seconds that clocks of several machines may differ by
counts = {"holds": 0, "differs": 0, "can't be checked": 0}


def say(text):
    """Print one line, whatever characters stand in a bundle."""
    print("".join(each if " " <= each <= "~" else "?" for each in text))


def claim(name, problems, unchecked=None):
    """Print one claim: it holds unless there are problems."""
    outcome = "differs" if problems else "can't be checked" if unchecked else "holds"
    counts[outcome] += 1
    said = problems[:3] + ([f"and {len(problems) - 3} more"] if len(problems) > 3 else []) or [unchecked or ""]
    say(f"{name}: {outcome}" + (f": {'; '.join(map(str, said))}" if outcome != "holds" else ""))


def read_files(place):
    """{path: content} of a zip file or a folder."""
    if place.is_dir():
        found = {path.relative_to(place).as_posix(): path for path in place.rglob("*") if path.is_file()}
        sizes = {name: path.stat().st_size for name, path in found.items() if "__pycache__" not in name}
    else:
        archive = zipfile.ZipFile(place)
        found = {each.filename: each for each in archive.infolist()}
        sizes = {name: each.file_size for name, each in found.items() if not each.is_dir()}
        if len(found) < len(archive.infolist()):
            raise ValueError("a file is in it twice")
    if len(sizes) > MAX_FILES or sum(sizes.values()) > MAX_BYTES:
        raise ValueError("it is too large")
    return {name: found[name].read_bytes() if place.is_dir() else archive.read(name) for name in sizes}


def number(value, low=-math.inf, high=math.inf):
    """A finite number within bounds; raises ValueError for anything else."""
    if type(value) not in (int, float) or not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{value!r:.40} is no number from {low} to {high}")
    return value


def same(there, value):
    """Whether what stands in JSON or CSV is a value; numbers up to rounding."""
    if type(value) not in (int, float):
        return there in (None, "") if value is None else there in (value, str(value))
    try:
        return math.isfinite(value) and abs(float(there) - value) <= 1e-9 * max(1.0, abs(value))
    except (TypeError, ValueError, OverflowError):
        return False


def lines_of(content):
    """The JSON objects of a .jsonl file; a line that a kill tore is passed over, as by the writer's own reader."""
    found, parts = [], content.split(b"\n")
    for i, part in enumerate(parts):
        try:
            found.append(dict(json.loads(part)))
        except ValueError:
            if i < len(parts) - 1 and part.strip(b"\0 \r") and part.count(b"{") <= part.count(b"}"):
                raise ValueError(f"line {i + 1} is no JSON") from None
    return found


def lines_of_sweeps(files, kind):
    """{path: lines} of each sweep's file of a kind."""
    return {name: lines_of(files[name]) for name in sorted(files) if re.fullmatch(f"sweeps/[^/]+/{kind}.jsonl", name)}


def arrays(content):
    """What an .npz file holds."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if sum(each.file_size for each in archive.infolist()) > MAX_BYTES // 8:
            raise ValueError("it is too large")
    return np.load(io.BytesIO(content), allow_pickle=False)


def root_of(hashes):
    return hashlib.sha256("".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()).hexdigest()


def check_files(files):
    manifest = json.loads(files["manifest.json"])
    hashes, root = manifest["files"], root_of(manifest["files"])
    own = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    others = own.keys() - {"manifest.json", "manifest.json.sig"}
    problems = [f"{name} is missing" for name in sorted(hashes.keys() - own.keys())]
    problems += [f"{name} was added" for name in sorted(others - hashes.keys())]
    problems += [f"{name} was changed" for name in sorted(hashes) if name in own and own[name] != hashes[name]]
    claim(f"{len(hashes)} files have the hashes of the manifest", problems)
    claim(f"the root hash is {root}", [] if manifest["root"] == root else [f"the manifest has {manifest['root']}"])
    figures = root_of({name: digest for name, digest in own.items() if name.startswith("published/")})
    claim("published/ has the figures that this checker knows", [] if figures == PUBLISHED else ["it has others"])
    is_own = files["check_evidence.py"] == Path(__file__).read_bytes()
    claim("the checker in it is this one", [], None if is_own else "it isn't: it may be another version's")
    unlike = [name for name in own if name.startswith("environments/") and own[name][:16] not in name]
    claim("environments have the hashes that they are called by", unlike)


def hours_of(row):
    return number(row.get("gpu_hours") or row.get("runtime_hours") or 0.0, 0, 1e6)


def goes_on(before, row):
    """Whether hours are no fewer than before."""
    return all(number(row.get(name) or 0.0) >= (before.get(name) or 0.0) for name in ("gpu_hours", "runtime_hours"))


class Trial:
    """What a run folder holds, checked as far as it is used."""

    def __init__(self, trial_id, files, slots):
        self.id, self.config, self.slots = trial_id, json.loads(files["config.json"]), slots
        self.lines, self.predictions = lines_of(files.get("journal.jsonl", b"")), files.get("predictions.npz")
        self.result = json.loads(files["result.json"]) if "result.json" in files else None
        self.attempts = [line for line in self.lines if "attempt" in line]
        self.times = [number(line["time"], 0, 1e12) for line in self.lines]
        rows = {number(line["step"], 1, 1e15): line for line in self.lines if "step" in line}  # run again: the later
        self.rows = [rows[step] for step in sorted(rows)]
        self.last = self.rows[-1] if self.rows else {}
        self.status = "unfinished" if self.result is None else self.result["status"]
        if self.status not in STATUSES or type(self.config["seed"]) is not int:
            raise ValueError(f"status {self.status!r:.40}, seed {self.config['seed']!r:.40}")
        self.recipe = tuple(number(self.config[name]) for name in ("base_lr", "dropout", "warmup_steps"))
        self.cell, self.seed = tuple(self.config[name] for name in CELL), self.config["seed"]
        is_finished, self.total = self.status == "finished", number(self.config["total_steps"], 1)
        self.validation = number(self.result["val/accuracy"], 0, 1) if is_finished else None
        self.test = number(self.result["test/accuracy"], 0, 1) if is_finished else None
        self.hours = max(hours_of(self.last), hours_of(self.result or {}))
        left = self.total - self.last["step"] if self.status == "stopped" and self.rows else 0
        self.saved_hours = hours_of(self.last) / self.last["step"] * left if left else 0.0

    @property
    def billed_hours(self):
        """Hours of the slots that it held, and of steps before it held any; None where more came before."""
        holds, before = [], [line for line in self.lines if not self.slots or line["time"] < self.slots[0][0]]
        for at, num_slots in self.slots:
            if num_slots:
                holds.append([at, None, num_slots])
            elif holds and holds[-1][1] is None:
                holds[-1][1] = at
        seconds = 3600 * max([hours_of(line) for line in before if "step" in line], default=0.0)
        for (since, until, num_slots), again in zip(holds, [*(each[0] for each in holds[1:]), math.inf], strict=False):
            seen = max([since, *(at for at in self.times if since <= at < again)])  # where nobody said until when
            seconds += num_slots * ((seen if until is None else until) - since)
        return None if sum("attempt" in line for line in before) > 1 else seconds / 3600

    def own_id(self):
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()
        return "{model}-{dataset}-d{dropout:g}-lr{base_lr:g}-s{seed}".format(**self.config) + f"-{digest[:6]}"

    def value_at(self, rung):
        """The first validation accuracy at or after a rung; no number counts as 0."""
        value = next((row["val/accuracy"] for row in self.rows if row["step"] >= rung and "val/accuracy" in row), None)
        return None if value is None else value if type(value) in (int, float) and math.isfinite(value) else 0.0

    def problems(self):
        """What in the journal and the result can't have happened one after the other."""
        before, attempt, num_attempts, told = {"step": 0}, {}, 0, 0.0
        for line, now in zip(self.lines, self.times, strict=True):
            if now < told - SLACK:
                yield "goes back in time"
            told, held = now, [n for at, n in self.slots if at <= now + SLACK]
            if held and not held[-1] and not any(abs(at - now) <= SLACK for at, _ in self.slots):
                yield f"wrote at {now:.0f}, when it held no slots"
            if "attempt" in line:
                attempt, num_attempts, before = line, num_attempts + 1, {"step": line["from_step"] - 1}
                part = number(line["num_processes"], 1) * (line.get("micro_batch_size") or 1)
                if line["attempt"] != num_attempts or self.config["global_batch_size"] % part:
                    yield f"attempt {num_attempts} has another number, or no part of the batch"
            if "step" in line:
                is_after = line["step"] > before["step"] and goes_on(before, line)
                if not is_after or line["step"] > self.total or len(self.attempts) > 0 == num_attempts:
                    yield f"step {line['step']} is none of its attempt"
                took = 3600 * (line.get("runtime_hours") or 0) - attempt.get("from_seconds", math.inf)
                if took > now - attempt.get("time", 0) + 10 * SLACK:
                    yield f"step {line['step']} took longer than there was time"
                before = line
        step = self.last.get("step", 0)
        has_last = self.status in ("unfinished", "failed")  # a fault may come between rows
        has_last = has_last or (self.result["step"] == step and goes_on(self.last, self.result))
        is_whole = self.status != "finished" or (step == self.total and self.last["val/accuracy"] == self.validation)
        if not (has_last and is_whole):
            yield "has a result that isn't its journal's last row"


def read_trials(files):
    folders, slots = defaultdict(dict), defaultdict(list)
    for name, content in files.items():
        parts = PurePosixPath(name).parts
        if parts[0] == "runs" and len(parts) == 3:
            folders[parts[1]][parts[2]] = content
    for line in (line for lines in lines_of_sweeps(files, "slots").values() for line in lines):
        slots[line["trial"]].append((number(line["time"], 0, 1e12), number(line["slots"], 0, 1e6)))
    trials, problems, unlike = {}, [], []
    for trial_id, own in sorted(folders.items()):
        try:
            trials[trial_id] = Trial(trial_id, own, sorted(slots[trial_id]))
            unlike += [f"{trial_id} {problem}" for problem in trials[trial_id].problems()]
        except Exception as error:  # whatever nonsense stands there
            problems.append(f"{trial_id}: {error!r:.80}")
    claim(f"{len(folders)} run folders can be read", problems)
    claim("journals and results follow in time, in steps and in hours, while slots were held", unlike)
    return trials


def check_trials(files, trials):
    claim("each trial's id is the hash of its config", [t.id for t in trials.values() if t.own_id() != t.id])
    facts, own = json.loads(files["facts.json"]), set(trials)
    named = {str(line["trial_id"]) for lines in lines_of_sweeps(files, "decisions").values() for line in lines}
    planned = {str(line["trial"]) for lines in lines_of_sweeps(files, "slots").values() for line in lines}
    planned |= {trial for name in files if name.endswith("/tracking.json") for trial in json.loads(files[name])}
    absent = set(facts.get("not_here", []))  # a sweep was interrupted before these began
    claim("every trial that is named anywhere is here", sorted((named | planned - absent) - own))
    claim("every planned trial is here", [], f"not begun: {sorted(absent)}" if absent else None)
    pairs = [(trial.config, attempt) for trial in trials.values() for attempt in trial.attempts]
    weights = {("{model} {upstream}".format(**of), each.get("weights_sha256") or "random") for of, each in pairs}
    said = {(name, digest) for name, digests in facts["checkpoints"].items() for digest in digests}
    unlike = ["begun"] * (own != set(facts["begun"])) + ["checkpoints"] * (weights != said)
    unlike += ["code"] * ({str(each.get("commit")) for _, each in pairs} != set(facts["code"]["trained_by"]))
    official = {(row["model"], row["dataset"]): row for row in published_table(files, "official")}
    lines = set()
    for config in (trial.config for trial in trials.values()):
        row = official.get((config["model"], config["dataset"]), {})
        others = [name for name in CELL[:-1] if name in row and str(config[name]) != row[name]]
        lines |= {f"{name} is {config[name]} where the official recipe has {row[name]}," for name in others}
    unsaid = [line for line in sorted(lines) if not any(each.startswith(line) for each in facts["deviations"])]
    claim("facts.json names each deviation from official recipes", unsaid)
    claim("facts.json has the trials, weights and commits of the run folders", unlike)


def check_accuracies(files, trials):
    problems, missing, finished = [], [], [trial for trial in trials.values() if trial.status == "finished"]
    for trial in finished:
        if trial.predictions is None and not any("environment" in attempt for attempt in trial.attempts):
            missing.append(trial.id)  # of an earlier version, which kept none
            continue
        try:
            test_set, kept = arrays(files[f"labels/{trial.config['dataset']}.npz"]), arrays(trial.predictions)
            labels, own = test_set["labels"], kept["labels"]
            counted = own != NO_CLASS  # an image that could not be read doesn't count
            if own.shape != labels.shape or not np.array_equal(own[counted], labels[counted]):
                raise ValueError("its labels aren't those of the test set")
            if not np.array_equal(test_set["names"], kept["names"]):
                raise ValueError("its images aren't those of the test set")
            accuracy = int((kept["classes"][:, 0] == labels)[counted].sum()) / int(counted.sum())
            if abs(accuracy - trial.test) > 1e-9:
                raise ValueError(f"{accuracy:.6f} of its predictions are right, its result says {trial.test:.6f}")
        except Exception as error:  # NumPy and zipfile raise many kinds
            problems.append(f"{trial.id}: {error!s:.120}")
    note = f"no predictions of {', '.join(missing[:3])}" if missing else None
    claim(f"accuracies of {len(finished)} finished trials, from predictions and labels", problems, note)


def check_decisions(files, trials):
    figures, rules = read_published(files)[0], defaultdict(set)
    for name, lines in lines_of_sweeps(files, "decisions").items():
        problems, unknown, values_at = [], 0, defaultdict(dict)
        for line in lines:
            values_at[line["group"], line["rung"]][line["trial_id"]] = number(line["value"] or 0.0, 0, 1)
            rules[line["trial_id"]].add(line["rule"])
        for line in lines:
            trial, rule, rung, action = trials.get(line["trial_id"]), line["rule"], line["rung"], line["action"]
            if trial is None or not rule.startswith(("rung of", "ASHA at")):
                unknown += 1  # a rehearsal's: complete schedules, compared by their last validation
                continue
            value, others, cutoff = line["value"] or 0.0, [other or 0.0 for other in line["compared"]], line["cutoff"]
            seeds = [each for each in trials.values() if (each.recipe, each.cell) == (trial.recipe, trial.cell)]
            own = [at for each in seeds if (at := each.value_at(rung)) is not None]  # of several seeds a mean counts
            there, wrong = values_at[line["group"], rung].values(), []
            if not own or not min(own) - 1e-9 <= value <= max(own) + 1e-9:
                wrong.append(f"{value:g} isn't its journal's {own[:3]}")
            if any(min(abs(other - each) for each in there) > 1e-9 for other in others):
                wrong.append("it was compared with what no candidate had")
            said = f"step {line['step']}: val/accuracy " + ("is no" if line["value"] is None else f"{value:.4f} ")
            place = "{model} .* {resolution}px {total_steps} steps .*".format(**trial.config).replace("+", "[+]")
            if said not in rule or not re.fullmatch(place, line["group"]):
                wrong.append("its rule or its group is another's")
            follows = cutoff is None or value >= cutoff or "last live" in rule
            if (
                rule.startswith("ASHA")
                and (min(others) <= cutoff <= max(others) if others else cutoff is None) is False
            ):
                wrong.append(f"the cutoff {cutoff} is none of {others[:4]}")
            if rule.startswith("rung of"):  # all of a cell's candidates together, the best going on
                num, at, place, kept = re.fullmatch(RUNG, rule).groups()
                ranked, figure = sorted([value, *others], reverse=True), figures.get(trial.cell)
                ties = [i for i, each in enumerate(ranked, 1) if round(each, 9) == round(value, 9)]
                is_known = int(num) == len(ranked) <= len(there) and int(at) == rung and int(place) in ties
                if not is_known or cutoff != ranked[min(int(kept), len(ranked)) - 1]:
                    wrong.append("its rule says else than its values")
                follows = int(place) <= int(kept) or (figure and figure["base_lr"] == trial.recipe[0])
            if bool(follows) != (action == "goes on") and "already" not in rule:
                wrong.append(f"{action}, with {value:g} beside {others[:4]}")
            if action not in ("goes on", "stays paused", "stops"):
                wrong.append(f"{action!r:.40} is no action")
            if action == "stops" and trial.status in ("finished", "failed"):
                wrong.append(f"it was stopped, and {trial.status}")
            problems += [f"{trial.id} at {rung}: {each}" for each in wrong]
        claim(f"{len(lines)} decisions in {name} follow from journals", problems)
        if unknown:
            claim(f"{unknown} decisions in {name}", [], "they are a rehearsal's, or of trials that can't be read")
    causes = {trial.id: str(trial.result.get("cause")) for trial in trials.values() if trial.status == "stopped"}
    unlike = [
        name
        for name, why in causes.items()
        if (rules or "at step" in why) and why not in (rules[name] or {PASSED_OVER})
    ]
    claim(f"{len(causes)} stopped trials were stopped by what was decided", unlike)


def choose(finished):
    """The seeds of the recipe with the best mean validation accuracy over the seeds that all recipes share."""
    by_recipe = defaultdict(dict)
    for trial in sorted(finished, key=lambda t: (t.recipe, t.seed)):
        by_recipe[trial.recipe][trial.seed] = trial
    seeds = sorted({seed for own in by_recipe.values() for seed in own})
    if not seeds:
        return []
    commonest = max(seeds, key=lambda seed: sum(seed in own for own in by_recipe.values()))
    compared = [own for own in by_recipe.values() if commonest in own]
    shared = [seed for seed in seeds if all(seed in own for own in compared)]
    return list(max(compared, key=lambda own: round(fmean([own[seed].validation for seed in shared]), 9)).values())


def beyond(t, df):
    """How likely Student's t is at least so far from zero, on either side (Abramowitz and Stegun 26.7.3, 26.7.4)."""
    odd, angle = df % 2, math.atan(abs(t) / math.sqrt(df))
    term, total = math.cos(angle) if odd else 1.0, 0.0
    for k in range(2 + odd, df + 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k - 1) / k
    within = math.sin(angle) * total
    return max(0.0, 1 - (2 / math.pi * (angle + within) if odd else within))


def quantile(chance, df):
    """How far from zero Student's t is with this chance, on either side."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(math.sqrt(df) * math.tan(middle), df) > chance else (low, middle)
    return math.sqrt(df) * math.tan(low)


def pooled(groups):
    """(standard deviation within groups, degrees of freedom)."""
    df = sum(len(group) - 1 for group in groups)
    squares = math.fsum((value - fmean(group)) ** 2 for group in groups for value in group)
    return math.sqrt(squares / df) if df else 0.0, df


def judge(accuracies, published, num_published, deviation, df, margin):
    """The columns of a verdict, and the standard error behind them."""
    n, difference = len(accuracies), fmean(accuracies) - published
    one, two = quantile(2 * SIGNIFICANCE, df), quantile(SIGNIFICANCE, df)
    errors = {m: deviation * math.sqrt(1 / m + 1 / num_published) for m in range(n, max(n, MAX_SEEDS) + 1)}

    def status(error):
        if abs(difference) + one * error < margin:
            return "reproduced"
        return ("above" if difference > 0 else "below") if abs(difference) > two * error else "inconclusive"

    columns = {"verdict": status(errors[n]), "difference": difference, "p_value": beyond(difference / errors[n], df)}
    columns |= {"interval_95_low": difference - two * errors[n], "interval_95_high": difference + two * errors[n]}
    columns["more_seeds_needed"] = next((m - n for m in errors if status(errors[m]) != "inconclusive"), None)
    columns |= {"margin": margin, "spread": deviation, "spread_degrees_of_freedom": df}
    return columns | {"judged_accuracies": " ".join(map(str, accuracies))}, errors[n]


def published_table(files, name):
    return list(csv.DictReader(io.StringIO(files[f"published/{name}.csv"].decode())))


def read_published(files):
    """Figures by cell, kinds of runs (what single runs differ by is pooled within one), repeats by data set."""
    figures, kinds, repeats = {}, set(), defaultdict(lambda: defaultdict(list))
    tables = {name: published_table(files, name) for name in TABLES}
    for name in TABLES[:3]:
        for row in tables[name]:
            key = (*(row[n] for n in CELL[:3]), *(int(row[n]) for n in CELL[3:7]), float(row["dropout"]))
            kinds |= {key[2:7]} if name != "reimplementation" else set()
            numbers = {n: float(row[n]) if row[n] else None for n in ("accuracy", "base_lr")}
            if row["accuracy"]:
                figures.setdefault(key, row | numbers | {"table": name, "caveat": row["caveat"] or None})
    for row in tables["replicates"] + tables["official"]:
        value, spread = float(row["accuracy"]), float(row.get("deviation") or 0)
        runs = [value - spread, value, value + spread] if spread else [value]
        repeats[row["dataset"]][row["model"], row["dropout"], row["base_lr"]] += runs
    return figures, kinds, {dataset: list(groups.values()) for dataset, groups in repeats.items()}


def row_of(trial, is_chosen):
    """What report/trials.csv says of a trial."""
    result, last = trial.result or {}, trial.attempts[-1] if trial.attempts else {}
    validations = [row["val/accuracy"] for row in [*trial.rows, result] if "val/accuracy" in row]
    row = {"status": trial.status, "is_chosen": is_chosen, "step": trial.last.get("step", 0), "hours": trial.hours}
    row |= {"validation_accuracy": [None, *validations][-1], "test_accuracy": result.get("test/accuracy")}
    row |= {"wall_hours": (result or trial.last).get("runtime_hours") or 0.0, "saved_hours": trial.saved_hours}
    row |= {} if trial.billed_hours is None else {"billed_hours": trial.billed_hours}
    name, num = last.get("device_name") or None, last.get("num_processes", 1)
    row |= {"device": f"{num} x {name}" if name and num > 1 else name}
    row |= {"num_attempts": len(trial.attempts), "begun": trial.attempts[0]["time"] if trial.attempts else None}
    row |= {name: last.get(name) for name in ("weights_sha256", "commit", "host")}
    return trial.config | row | {"last_seen": [None, *trial.times][-1]}


def check_table(files, trials):
    rows, (figures, kinds, published) = json.loads(files["report/table.json"]), read_published(files)
    cells, repeats, of_trials, wrong, verdicts = [], defaultdict(dict), {}, defaultdict(list), []

    def compare(part, row, expected):
        unlike = [(name, value) for name, value in expected.items() if not same(row.get(name), value)]
        wrong[part] += [f"{row['cell']}: {n} is {row.get(n)!r:.60}, computed {value!r:.60}" for n, value in unlike]

    def fitting(key):
        return [t for t in trials.values() if all(k in (None, v) for k, v in zip(key, t.cell, strict=True))]

    for row in rows:
        key = tuple(row[name] for name in CELL)
        is_searched = row["chosen_warmup_steps"] not in (None, row["warmup_steps"]) or not fitting(key)
        own = fitting((*key[:5], None, *key[6:]) if is_searched else key)  # of any warm-up where that was searched
        finished = [t for t in own if t.status == "finished"]
        chosen, figure = choose(finished), figures.get(key)
        judged = chosen
        if figure and figure["base_lr"]:  # the figure is of one rate that was fixed before
            recipe = (figure["base_lr"], row["warmup_steps"])
            judged = sorted((t for t in finished if (t.recipe[0], t.recipe[2]) == recipe), key=lambda t: t.seed)
        for group in (chosen, judged) if key[-1] is not None else ():  # where none was stopped: those left are better
            recipes = {t.recipe for t in group}
            if group and not any(t.status == "stopped" and t.recipe in recipes for t in own):
                repeats[key[2:7]][group[0].id] = [t.test for t in group]
        cells.append((row, key, own, chosen, figure, judged))
        of_trials |= {(row["cell"], t.id): row_of(t, t in chosen) for t in own}
    unlike = sorted(trials.keys() - {trial_id for _, trial_id in of_trials})
    unlike += ["a row is there twice"] * (len({each[1] for each in cells}) < len(rows))
    claim("every trial is a candidate of a row, and each row is another cell", unlike)

    for row, key, own, chosen, figure, judged in cells:
        tests, recipe = [t.test for t in chosen], chosen[0].recipe if chosen else (None, None, None)
        name = f"{row['model']}/{row['dataset']}/{'searched' if key[-1] is None else float(key[-1])}"
        choice = {"cell": row["cell"] if f"{row['cell']}/".startswith(f"{name}/") else name, "num_seeds": len(chosen)}
        choice |= {"trial_ids": " ".join(t.id for t in chosen), "accuracies": " ".join(map(str, tests))}
        choice |= {"accuracy": fmean(tests) if tests else None}
        choice |= {"accuracy_deviation": stdev(tests) if len(tests) > 1 else None}
        choice |= {"validation_accuracy": fmean([t.validation for t in chosen]) if chosen else None}
        choice |= dict(zip(("chosen_base_lr", "chosen_dropout", "chosen_warmup_steps"), recipe, strict=True))
        compare("choice", row, choice)
        numbers = {f"num_{status}": sum(t.status == status for t in own) for status in STATUSES}
        beside = {"num_stopped_seeds": sum(t.status == "stopped" and t.recipe == recipe for t in own)}
        compare("counts", row, numbers | beside)
        walls = [t.result.get("runtime_hours") or 0.0 for t in chosen]
        hours = {"hours": sum(t.hours for t in own), "saved_hours": sum(t.saved_hours for t in own)}
        billed = [t.billed_hours for t in own]
        hours |= {} if None in billed else {"billed_hours": sum(billed)}
        compare("hours", row, hours | {"wall_hours": fmean(walls) if walls else None})
        said = ("accuracy", "table", "base_lr", "caveat", "source")
        compare("figures", row, {f"published_{name}": figure and figure[name] for name in said})
        if not figure or not judged:
            compare("verdicts", row, {"verdict": None})
            continue
        groups = [group for group in repeats[key[2:7]].values() if len(group) > 1]
        spread, alone = pooled(published[row["dataset"]]), pooled(groups)
        if key[2:7] in kinds:
            spread = pooled([*published[row["dataset"]], *groups])
        elif alone[0] and alone[1] >= 4:
            spread = alone
        seeds = int(figure["num_seeds"] or 1)
        columns, error = judge([t.test for t in judged], figure["accuracy"], seeds, *spread, MARGINS[key[2]])
        compare("verdicts", row, columns | {"judged_base_lr": judged[0].recipe[0]})
        verdicts.append((columns["p_value"], row, key[2:7], columns, error))

    order, rejected = sorted(range(len(verdicts)), key=lambda i: verdicts[i][0]), set()
    for rank, i in enumerate(order):  # Holm (1979): one wrong among all cells in at most 5% of tables
        if verdicts[i][0] > SIGNIFICANCE / (len(order) - rank):
            break
        rejected.add(i)
    for i, (_, row, kind, columns, _) in enumerate(verdicts):
        own = [each for each in verdicts if each[2] == kind]
        difference = fmean([each[3]["difference"] for each in own])
        error = math.sqrt(math.fsum(each[4] ** 2 for each in own)) / len(own)
        half = quantile(2 * SIGNIFICANCE, own[0][3]["spread_degrees_of_freedom"]) * error
        joint = {"differs_in_whole_table": i in rejected, "mean_difference": difference}
        joint |= {"mean_interval_90_low": difference - half, "mean_interval_90_high": difference + half}
        compare("joint", row, joint | {"mean_is_within_margin": abs(difference) + half < columns["margin"]})
    written = list(csv.DictReader(io.StringIO(files["report/trials.csv"].decode())))
    for row in written:
        compare("trials", row, of_trials.get((row["cell"], row["trial_id"]), {}))
    if sorted((row["cell"], row["trial_id"]) for row in written) != sorted(of_trials):
        wrong["trials"].append("trials.csv has others")
    written = list(csv.DictReader(io.StringIO(files["report/table.csv"].decode())))
    asked = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    wrong["csv"] = ["table.csv says else than table.json"] * (written != asked)
    for part in ("choice", "counts", "hours", "figures", "verdicts", "joint", "trials", "csv"):
        claim(f"table: {part} of {len(rows)} cells", wrong[part])
    for row in rows:
        say(f"{row['cell']}: {row['accuracy']}, {row.get('verdict') or 'nothing to compare with'}")


def main():
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    try:
        files = read_files(place)
        check_files(files)
        trials = read_trials(files)
    except Exception as error:
        print(f"error: {place} is no bundle of evidence ({error!s:.200}): give an evidence.zip", file=sys.stderr)
        return 2
    for check in (check_trials, check_accuracies, check_decisions, check_table):
        try:
            check(files, trials)
        except Exception as error:
            claim(check.__name__.replace("_", " "), [f"a file is not as it should be: {error!r:.120}"])
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return 1 if counts["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
