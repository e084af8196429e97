"""Checks a bundle of evidence: recomputes what its report claims from what its runs left. Python and NumPy alone.

    python check_evidence.py [evidence.zip or its unpacked folder]      (unless given: the folder of this file)

Prints a line per claim: `holds`, `differs: how`, or `can't be checked: why`. Exit code 0 if none differs, 1 if any,
2 if this is no bundle. What is computed, and from what:

files        every file has the SHA-256 that manifest.json says, none is missing or added, and the root hash is theirs
trials       each trial's id is the hash of its config; whatever decisions, slots or facts name is here, and no more
accuracies   of every finished trial, counted from predictions.npz and labels/<data set>.npz
choice       of each cell: the best mean validation accuracy over the seeds that all finished candidates share
decisions    at rungs: each candidate's value is its journal's, and who goes on follows from those compared
hours        of each trial and cell, from the journal's last row
verdicts     two one-sided t tests against the margin, with the pooled spread; Holm's test over all cells together
table        report/table.json row by row, and report/table.csv is the same

What no check of a bundle can find is its author's consistent lie: predictions that no model made, a trial that is
mentioned nowhere, journals that were made up as a whole. Hashes show that a file is what it was when the manifest was
written; a signature (manifest.json.sig, `ssh-keygen -Y verify`) shows by whom, a time stamp since when.
"""

import csv
import hashlib
import io
import json
import math
import sys
import zipfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy as np

MAX_BYTES, MAX_FILES = 2**31, 200_000
NO_CLASS = 65535
SIGNIFICANCE, MAX_SEEDS = 0.05, 100
CELL = ("upstream", "model", "dataset", "resolution", "total_steps", "warmup_steps", "global_batch_size", "dropout")
STATUSES = ("finished", "stopped", "failed", "unfinished")
counts = {"holds": 0, "differs": 0, "can't be checked": 0}


def claim(name, problems, unchecked=None):
    """Print one claim: it holds unless there are problems."""
    outcome = "differs" if problems else "can't be checked" if unchecked else "holds"
    counts[outcome] += 1
    said = problems[:3] + ([f"and {len(problems) - 3} more"] if len(problems) > 3 else []) or [unchecked or ""]
    print(f"{name}: {outcome}" + (f": {'; '.join(map(str, said))}" if outcome != "holds" else ""))


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


def lines_of(content):
    """The JSON objects of a .jsonl file; a line that a kill tore is passed over, as by the writer's own reader."""
    found, parts = [], content.split(b"\n")
    for i, part in enumerate(parts):
        try:
            line = json.loads(part)
        except ValueError:
            if i == len(parts) - 1 or not part.strip(b"\0 \r") or part.count(b"{") > part.count(b"}"):
                continue
            raise ValueError(f"line {i + 1} is no JSON") from None
        if type(line) is not dict:
            raise ValueError(f"line {i + 1} is no object")
        found.append(line)
    return found


# Hashes.


def check_files(files):
    manifest = json.loads(files["manifest.json"])
    hashes = manifest["files"]
    own = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    others = own.keys() - {"manifest.json", "manifest.json.sig"}
    problems = [f"{name} is missing" for name in sorted(hashes.keys() - own.keys())]
    problems += [f"{name} was added" for name in sorted(others - hashes.keys())]
    problems += [f"{name} was changed" for name in sorted(hashes) if name in own and own[name] != hashes[name]]
    claim(f"{len(hashes)} files have the hashes of the manifest", problems)
    lines = "".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes))
    root = hashlib.sha256(lines.encode()).hexdigest()
    claim(f"the root hash is {root}", [] if manifest["root"] == root else [f"the manifest has {manifest['root']}"])


# Trials.


class Trial:
    """What a run folder holds, checked as far as it is used."""

    def __init__(self, trial_id, files):
        self.id = trial_id
        self.config = json.loads(files["config.json"])
        self.lines = lines_of(files.get("journal.jsonl", b""))
        self.result = json.loads(files["result.json"]) if "result.json" in files else None
        self.predictions = files.get("predictions.npz")
        rows = {}
        for line in self.lines:
            number(line["time"], 0, 1e12)
            if "step" in line:
                rows[number(line["step"], 1, 1e15)] = line  # of a step that was run again, the later row
        self.rows = [rows[step] for step in sorted(rows)]
        self.status = "unfinished" if self.result is None else self.result["status"]
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r:.40}")
        self.recipe = tuple(number(self.config[name]) for name in ("base_lr", "dropout", "warmup_steps"))
        self.seed = number(self.config["seed"], 0)
        self.validation = self.test = None
        if self.status == "finished":
            self.validation = number(self.result["val/accuracy"], 0, 1)
            self.test = number(self.result["test/accuracy"], 0, 1)

    @property
    def own_id(self):
        digest = hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()
        return "{model}-{dataset}-d{dropout:g}-lr{base_lr:g}-s{seed}".format(**self.config) + f"-{digest[:6]}"

    def value_at(self, rung):
        """The first validation accuracy at or after a rung; no number counts as 0."""
        for row in self.rows:
            if row["step"] >= rung and "val/accuracy" in row:
                value = row["val/accuracy"]
                return float(value) if type(value) in (int, float) and math.isfinite(value) else 0.0
        return None

    @property
    def hours(self):
        def of(row):
            return number(row.get("gpu_hours") or row.get("runtime_hours") or 0.0, 0)

        return max(of(self.rows[-1]) if self.rows else 0.0, of(self.result or {}))


def read_trials(files):
    folders = defaultdict(dict)
    for name, content in files.items():
        parts = PurePosixPath(name).parts
        if parts[0] == "runs" and len(parts) == 3:
            folders[parts[1]][parts[2]] = content
    trials, problems = {}, []
    for trial_id, own in sorted(folders.items()):
        try:
            trials[trial_id] = Trial(trial_id, own)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problems.append(f"{trial_id}: {error!r:.80}")
    claim(f"{len(folders)} run folders can be read", problems)
    return trials


def check_trials(files, trials):
    claim("each trial's id is the hash of its config", [t.id for t in trials.values() if t.own_id != t.id])
    facts = json.loads(files["facts.json"])
    named = set(facts["begun"])
    for name, content in files.items():
        if name.startswith("sweeps/"):
            if name.endswith(("decisions.jsonl", "slots.jsonl")):
                named |= {str(line.get("trial_id") or line.get("trial")) for line in lines_of(content)}
            if name.endswith("tracking.json"):
                named |= {key for key in json.loads(content) if f"runs/{key}/config.json" in files or key in named}
    claim("every trial that is named anywhere is here", sorted(named - trials.keys()))
    claim("every trial that is here was counted when this was packed", sorted(trials.keys() - set(facts["begun"])))
    late, unlike = [], []
    for trial in trials.values():
        times, last = [line["time"] for line in trial.lines], trial.rows[-1] if trial.rows else {}
        if any(later < earlier - 60 for earlier, later in zip(times, times[1:], strict=False)):
            late.append(trial.id)
        steps = {(trial.result or last).get("step"), last.get("step")} if last else set()
        steps |= {trial.config["total_steps"]} if trial.status == "finished" else set()
        if len(steps) > 1 or (trial.validation is not None and last.get("val/accuracy") != trial.validation):
            unlike.append(trial.id)
    claim("journals go forward in time", late)
    claim("results are those of the journals' last rows", unlike)


def check_accuracies(files, trials):
    problems, missing = [], []
    for trial in trials.values():
        if trial.status != "finished":
            continue
        if trial.predictions is None:
            missing.append(trial.id)
            continue
        try:
            test_set = np.load(io.BytesIO(files[f"labels/{trial.config['dataset']}.npz"]), allow_pickle=False)
            kept = np.load(io.BytesIO(trial.predictions), allow_pickle=False)
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
    finished = sum(trial.status == "finished" for trial in trials.values())
    note = f"no predictions of {', '.join(missing[:3])}" if missing else None
    claim(f"accuracies of {finished} finished trials, from predictions and labels", problems, note)


# Decisions.


def check_decisions(files, trials):
    facts = json.loads(files["facts.json"])
    for name, content in sorted(files.items()):
        if not name.startswith("sweeps/") or not name.endswith("decisions.jsonl"):
            continue
        problems, unknown, lines = [], 0, lines_of(content)
        values_at = defaultdict(list)
        for line in lines:
            values_at[line["group"], line["rung"]].append(line["value"] or 0.0)
        for line in lines:
            trial, rule, rung = trials.get(line["trial_id"]), line["rule"], line["rung"]
            if trial is None or not rule.startswith(("rung of", "ASHA")):
                unknown += 1  # a rehearsal's: complete schedules, compared by their last validation
                continue
            value, others = line["value"] or 0.0, [other or 0.0 for other in line["compared"]]
            seeds = [each for each in trials.values() if (each.recipe, cell_of(each)) == (trial.recipe, cell_of(trial))]
            own = [at for each in seeds if (at := each.value_at(rung)) is not None]  # of several seeds a mean counts
            if not own or not min(own) - 1e-9 <= value <= max(own) + 1e-9:
                problems.append(f"{trial.id} at {rung}: {value:g} isn't its journal's {own[:3]}")
            follows = line["cutoff"] is None or value >= line["cutoff"] or "last live" in rule
            if rule.startswith("rung of"):  # all of a cell's candidates together, the best going on
                if not rule.startswith(f"rung of {len(others) + 1} candidates at step {rung}:"):
                    problems.append(f"{trial.id} at {rung}: its rule speaks of others")
                if any(min(abs(other - there) for there in values_at[line["group"], rung]) > 1e-9 for other in others):
                    problems.append(f"{trial.id} at {rung}: it was compared with what no candidate had")
                kept = int(rule.partition("of which the best ")[2].split()[0])
                rank = sum(round(other, 9) > round(value, 9) for other in others)
                ties = sum(round(other, 9) == round(value, 9) for other in others)
                certain = "as the published one" in rule and trial.id in facts["certain"]
                follows = (rank < kept and (rank + ties < kept or line["action"] == "goes on")) or certain
            if follows != (line["action"] == "goes on") and "already" not in rule:
                problems.append(f"{trial.id} at {rung}: {line['action']}, with {value:g} beside {others[:4]}")
            if line["action"] == "stops" and trial.status == "finished":
                problems.append(f"{trial.id} was stopped, and finished")
        claim(f"{len(lines)} decisions in {name} follow from journals", problems)
        if unknown:
            claim(f"{unknown} decisions in {name}", [], "they are a rehearsal's, or of trials that can't be read")


# Choice, spread and verdicts.


def mean(values):
    return math.fsum(values) / len(values)


def cell_of(trial):
    return tuple(trial.config[name] for name in CELL)


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
    best = max(compared, key=lambda own: round(mean([own[seed].validation for seed in shared]), 9))
    return list(best.values())


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
    squares = math.fsum((value - mean(group)) ** 2 for group in groups for value in group)
    return math.sqrt(squares / df) if df else 0.0, df


def judge(accuracies, published, num_published, deviation, df, margin):
    """The columns of a verdict, and the standard error behind them."""
    n, difference = len(accuracies), mean(accuracies) - published
    one, two = quantile(2 * SIGNIFICANCE, df), quantile(SIGNIFICANCE, df)

    def error(n):
        return deviation * math.sqrt(1 / n + 1 / num_published)

    def status(n):
        if abs(difference) + one * error(n) < margin:
            return "reproduced"
        return ("above" if difference > 0 else "below") if abs(difference) > two * error(n) else "inconclusive"

    columns = {"verdict": status(n), "difference": difference, "p_value": beyond(difference / error(n), df)}
    columns |= {"interval_95_low": difference - two * error(n), "interval_95_high": difference + two * error(n)}
    decisive = (m - n for m in range(n, max(n, MAX_SEEDS) + 1) if status(m) != "inconclusive")
    columns |= {"more_seeds_needed": next(decisive, None), "margin": margin, "spread": deviation}
    return columns | {"spread_degrees_of_freedom": df, "judged_accuracies": " ".join(map(str, accuracies))}, error(n)


def read_published(files):
    """Figures by cell, kinds of runs (what single runs differ by is pooled within one), repeats by data set."""
    figures, kinds, repeats, tables = {}, set(), defaultdict(lambda: defaultdict(list)), {}
    for name in ("official", "paper", "reimplementation", "replicates"):
        tables[name] = list(csv.DictReader(io.StringIO(files[f"published/{name}.csv"].decode())))
    for name in ("official", "paper", "reimplementation"):
        for row in tables[name]:
            key = (*(row[n] for n in CELL[:3]), *(int(row[n]) for n in CELL[3:7]), float(row["dropout"]))
            kinds |= {key[2:7]} if name != "reimplementation" else set()
            if row["accuracy"]:
                figures.setdefault(key, row)
    for row in tables["replicates"] + tables["official"]:
        value, spread = float(row["accuracy"]), float(row.get("deviation") or 0)
        runs = [value - spread, value, value + spread] if spread else [value]
        repeats[row["dataset"]][row["model"], row["dropout"], row["base_lr"]] += runs
    return figures, kinds, {dataset: list(groups.values()) for dataset, groups in repeats.items()}


# The table.


def check_table(files, trials):
    rows, margins = json.loads(files["report/table.json"]), json.loads(files["facts.json"])["margins"]
    figures, kinds, published = read_published(files)
    cells, placed, repeats = [], set(), defaultdict(dict)
    for row in rows:
        key = tuple(row[name] for name in CELL)
        own = [t for t in trials.values() if all(k in (None, v) for k, v in zip(key, cell_of(t), strict=True))]
        if not own or row["chosen_warmup_steps"] not in (None, row["warmup_steps"]):  # warm-ups were searched
            loose = (*key[:5], None, *key[6:])
            own = [t for t in trials.values() if all(k in (None, v) for k, v in zip(loose, cell_of(t), strict=True))]
        placed |= {t.id for t in own}
        finished = [t for t in own if t.status == "finished"]
        chosen, figure = choose(finished), figures.get(key)
        judged = chosen
        if figure and figure["base_lr"]:  # the figure is of one rate that was fixed before
            recipe = (float(figure["base_lr"]), row["warmup_steps"])
            judged = sorted((t for t in finished if (t.recipe[0], t.recipe[2]) == recipe), key=lambda t: t.seed)
        for group in (chosen, judged) if key[-1] is not None else ():  # where none was stopped: those left are better
            recipes = {t.recipe for t in group}
            if group and not any(t.status == "stopped" and t.recipe in recipes for t in own):
                repeats[key[2:7]][group[0].id] = [t.test for t in group]
        cells.append((row, key, own, chosen, figure, judged))
    claim("every trial is a candidate of a row", sorted(trials.keys() - placed))

    wrong, verdicts = defaultdict(list), []

    def compare(part, row, expected):
        for name, value in expected.items():
            there = row.get(name)
            both = type(value) in (int, float) and type(there) in (int, float)
            if (abs(there - value) > 1e-9 * max(1.0, abs(value))) if both else there != value:
                wrong[part].append(f"{row['cell']}: {name} is {there!r:.60}, computed {value!r:.60}")

    for row, key, own, chosen, figure, judged in cells:
        tests = [t.test for t in chosen]
        choice = {"trial_ids": " ".join(t.id for t in chosen), "accuracies": " ".join(map(str, tests))}
        choice |= {"num_seeds": len(chosen), "accuracy": mean(tests) if tests else None}
        choice["accuracy_deviation"] = float(np.std(tests, ddof=1)) if len(tests) > 1 else None
        choice["validation_accuracy"] = mean([t.validation for t in chosen]) if chosen else None
        for i, name in enumerate(("base_lr", "dropout", "warmup_steps")):
            choice[f"chosen_{name}"] = chosen[0].recipe[i] if chosen else None
        compare("choice", row, choice)
        compare("counts", row, {f"num_{status}": sum(t.status == status for t in own) for status in STATUSES})
        walls = [t.result.get("runtime_hours") or 0.0 for t in chosen]
        compare("hours", row, {"hours": sum(t.hours for t in own), "wall_hours": mean(walls) if walls else None})
        compare("figures", row, {"published_accuracy": float(figure["accuracy"]) if figure else None})
        if not figure or not judged:
            compare("verdicts", row, {"verdict": None})
            continue
        groups = [group for group in repeats[key[2:7]].values() if len(group) > 1]
        spread, alone = pooled(published[row["dataset"]]), pooled(groups)
        if key[2:7] in kinds:
            spread = pooled([*published[row["dataset"]], *groups])
        elif alone[0] and alone[1] >= 4:
            spread = alone
        margin = number(margins[row["dataset"]], 1e-6, 0.1)
        seeds = int(figure["num_seeds"] or 1)
        columns, error = judge([t.test for t in judged], float(figure["accuracy"]), seeds, *spread, margin)
        compare("verdicts", row, columns)
        verdicts.append((columns["p_value"], row, key[2:7], columns, error))

    order, rejected = sorted(range(len(verdicts)), key=lambda i: verdicts[i][0]), set()
    for rank, i in enumerate(order):  # Holm (1979): one wrong among all cells in at most 5% of tables
        if verdicts[i][0] > SIGNIFICANCE / (len(order) - rank):
            break
        rejected.add(i)
    for i, (_, row, kind, columns, _) in enumerate(verdicts):
        own = [each for each in verdicts if each[2] == kind]
        difference = mean([each[3]["difference"] for each in own])
        error = math.sqrt(math.fsum(each[4] ** 2 for each in own)) / len(own)
        half = quantile(2 * SIGNIFICANCE, own[0][3]["spread_degrees_of_freedom"]) * error
        joint = {"differs_in_whole_table": i in rejected, "mean_difference": difference}
        joint |= {"mean_interval_90_low": difference - half, "mean_interval_90_high": difference + half}
        compare("joint", row, joint | {"mean_is_within_margin": abs(difference) + half < columns["margin"]})
    for part in ("choice", "counts", "hours", "figures", "verdicts", "joint"):
        claim(f"table: {part} of {len(rows)} cells", wrong[part])
    written = list(csv.DictReader(io.StringIO(files["report/table.csv"].decode())))
    asked = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    claim("table.csv says what table.json says", [] if written == asked else ["they differ"])


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
            check(*((files, trials)))
        except Exception as error:
            claim(check.__name__.replace("_", " "), [f"a file is not as it should be: {error!r:.120}"])
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return 1 if counts["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
