"""Checks a bundle of evidence: recomputes what its report claims from what its runs left. Python and NumPy alone.

    python check_evidence.py [evidence.zip or its unpacked folder]      (unless given: the folder of this file)

Prints a line per claim: `holds`, `differs: how`, or `can't be checked: why`. Exit code 0 if none differs, 1 if any,
2 if this is no bundle. Take this checker from the project, not from the bundle.

Out of reach: predictions that no model made; journals made up as a whole; trials that nothing names; and what nothing
follows from: which seed is which, slots, attempts, rows but at rungs and the last, losses, speeds, dollars, seeds
needed, hours lost, billed and predicted, words, charts, trials.csv, pages but accuracies and verdicts in report.html.
"""

import csv
import io
import json
import math
import re
import sys
import zipfile
from collections import defaultdict
from contextlib import suppress
from hashlib import sha256
from itertools import combinations
from pathlib import Path
from statistics import fmean, stdev

import numpy as np

MAX_BYTES, MAX_FILES, NO_CLASS, SIGNIFICANCE, EXACT, SLACK = 2**31, 200_000, 65535, 0.05, 1e-9, 60.0
MARGINS = {"cifar10": 0.002, "cifar100": 0.006, "imagenet2012": 0.003, "oxford_pets": 0.006, "oxford_flowers102": 0.001}
PUBLISHED = "a1ee61db578af5168c26582b2b20c135b8c78e736d5ee256035c79221d9279b6"  # SHA-256 of published/*.csv
CELL = ("upstream", "model", "dataset", "resolution", "total_steps", "warmup_steps", "global_batch_size", "dropout")
RECIPE = ("base_lr", "dropout", "warmup_steps")  # what the candidates of a cell may differ in
STATUSES = ("finished", "stopped", "failed", "unfinished")
RUNG = r"rung of (\d+) candidates at step (\d+): .* is number (\d+) of \1, of which the best (\d+) goe?s? on(; as .*)?"
PASSED_OVER = "its learning rate was not among those that went on"  # of a further seed of such a candidate
PLACES, WEIGHTS = np.polynomial.legendre.leggauss(100)  # for integrals
repeats = {}  # runs of trials that another run stands for: merged from another site
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
        paths = [path for path in place.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in paths}
    with zipfile.ZipFile(place) as archive:
        sizes = {each.filename: each.file_size for each in archive.infolist()}
        if len(sizes) < len(archive.infolist()) or len(sizes) > MAX_FILES or sum(sizes.values()) > MAX_BYTES:
            raise ValueError("it is too large, or has a file twice")
        return {name: archive.read(name) for name in sizes if not name.endswith("/")}


def rows_of(files, path):
    return list(csv.DictReader(io.StringIO(files[path].decode())))


def lines_of(files, pattern):
    """What .jsonl files hold; a line that a kill tore is passed over, as by whoever wrote it."""
    found = []
    for line in (line for path in sorted(files) if re.fullmatch(pattern, path) for line in files[path].split(b"\n")):
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def number(value, low=-math.inf, high=math.inf):
    """A finite number within bounds; raises ValueError for anything else."""
    if type(value) not in (int, float) or not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{value!r:.40} is no number from {low} to {high}")
    return value


def same(there, value):
    """Whether what stands in JSON or CSV is a value; numbers up to rounding."""
    try:
        return abs(float(there) - float(value)) <= EXACT * max(1.0, abs(value))
    except (TypeError, ValueError, OverflowError):
        return str("" if there is None else there) == str("" if value is None else value)


def check_files(files, _):
    hashes, named_root = (json.loads(files["manifest.json"])[name] for name in ("files", "root"))
    own = {name: sha256(content).hexdigest() for name, content in files.items()}
    root = sha256("".join(f"{hashes[name]}  {name}\n" for name in sorted(hashes)).encode()).hexdigest()
    unlike = sorted(n for n in {*hashes, *own} - {"manifest.json", "manifest.json.sig"} if hashes.get(n) != own.get(n))
    how = [f"{name} was {'changed' if name in hashes.keys() & own.keys() else 'added or taken out'}" for name in unlike]
    claim(f"{len(hashes)} files have the hashes of the manifest", how)
    claim(f"the root hash is {root}", [] if root == named_root else [f"the manifest has {named_root}"])
    figures = sha256(b"".join(files[name] for name in sorted(files) if name.startswith("published/"))).hexdigest()
    claim("published/ has the figures that this checker knows", [] if figures == PUBLISHED else ["it has others"])
    claim("the checker in it is this one", [], files["check_evidence.py"] != Path(__file__).read_bytes() and "it isn't")
    misnamed = [name for name in own if name.startswith("environments/") and own[name][:16] not in name]
    claim("environments have the hashes that they are called by", misnamed)


class Trial:
    """What a run folder holds, checked as far as it is used."""

    def __init__(self, trial_id, files):
        self.id, self.predictions = trial_id, files.get("predictions.npz")
        self.config, self.lines = json.loads(files["config.json"]), lines_of(files, "journal.jsonl")
        self.result = json.loads(files["result.json"]) if "result.json" in files else {"status": "unfinished"}
        self.status, self.seed, self.total = self.result["status"], self.config["seed"], self.config["total_steps"]
        self.cell = tuple(self.config[name] for name in CELL)
        self.recipe = tuple(number(self.config[name]) for name in RECIPE)
        digest = sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()
        self.own_id = "{model}-{dataset}-d{dropout:g}-lr{base_lr:g}-s{seed}".format(**self.config) + f"-{digest[:6]}"
        fractions = ("val/accuracy", "test/accuracy") if self.status == "finished" else ()
        self.validation, self.test = [number(self.result[name], 0, 1) for name in fractions] or (None, None)
        self.attempts = [line for line in self.lines if "attempt" in line]
        rows = {number(line["step"], 1, self.total): line for line in self.lines if "step" in line}
        self.rows = [rows[step] for step in sorted(rows)]  # of steps that were run again, the later
        self.last = self.rows[-1] if self.rows else {"step": 0}
        hours = [row.get("gpu_hours") or row.get("runtime_hours") or 0.0 for row in (self.last, self.result)]
        self.hours = number(max(hours), 0, 1e6)
        self.saved = hours[0] * (self.total / self.last["step"] - 1) if self.status == "stopped" and self.rows else 0.0
        times = [number(line["time"], 0, 1e12) for line in self.lines] or [0.0]
        is_last = self.result.get("step") == self.last["step"] and hours[1] >= hours[0]
        is_whole = self.last["step"] == self.total and self.last.get("val/accuracy") == self.validation
        is_unlike = self.status in ("finished", "stopped") and not (is_last and (is_whole or self.status == "stopped"))
        spent = 3600 * (self.last.get("runtime_hours") or 0.0) - [*self.attempts, {}][0].get("from_seconds", math.inf)
        is_late = spent > times[-1] - times[0] + 10 * SLACK  # clocks of several machines may differ
        is_back = bool((np.diff(times) < -SLACK).any())
        self.problems = ["goes back in time"] * is_back + ["took longer than there was time"] * is_late
        self.problems += ["has a result that isn't its journal's last row"] * is_unlike

    def value_at(self, rung):
        """The first validation accuracy at or after a rung; no number counts as 0."""
        value = next((row["val/accuracy"] for row in self.rows if row["step"] >= rung and "val/accuracy" in row), None)
        return None if value is None else value if type(value) in (int, float) and math.isfinite(value) else 0.0


def check_runs(files, trials):
    problems = []
    for folder in sorted({path.rpartition("/")[0] for path in files if re.match("runs/|repeats/", path)}):
        try:
            own = {path[len(folder) + 1 :]: files[path] for path in files if path.startswith(f"{folder}/")}
            kept = trials if folder.startswith("runs/") else repeats
            kept[folder.removeprefix("runs/")] = Trial(folder.rpartition("/")[2], own)
        except Exception as error:  # whatever nonsense stands there
            problems.append(f"{folder}: {error!r:.80}")
    claim(f"{len(trials)} run folders can be read", problems)
    claim("journals and results go together", [f"{t.id} {each}" for t in trials.values() for each in t.problems])
    claim("each trial's id is the hash of its config", [t.id for t in trials.values() if t.own_id != t.id])
    facts, own = json.loads(files["facts.json"]), set(trials)
    attempts = [each for t in trials.values() for each in t.attempts]
    own |= {str(said) for each in attempts for said in (each.get("weights_sha256") or "random", each.get("commit"))}
    said = {*facts["begun"], *facts["code"]["trained_by"], *(x for xs in facts["checkpoints"].values() for x in xs)}
    planned = {trial for name in files if name.endswith("/tracking.json") for trial in json.loads(files[name])}
    planned |= {line["trial"] for line in lines_of(files, "sweeps/.*/slots.jsonl")}
    absent = set(facts.get("not_here", []))  # a sweep was interrupted before these began
    named = planned - absent | {line["trial_id"] for line in lines_of(files, "sweeps/.*/decisions.jsonl")}
    claim("trials, weights and commits that are named are here", sorted(map(str, said ^ own | named - own)))
    cells = [cell | cell["schedule"] for line in lines_of(files, "sweeps/.*/commands.jsonl") for cell in line["cells"]]
    asked = {tuple(cell[name] for name in CELL[:5]) for cell in cells} - {t.cell[:5] for t in trials.values()}
    absent |= {" ".join(map(str, cell)) for cell in asked}
    claim("all that sweeps planned and were asked for is here", [], absent and f"not begun: {sorted(absent)}")


def check_accuracies(files, trials):
    problems, missing, finished = [], [], [trial for trial in trials.values() if trial.status == "finished"]
    for trial in finished:
        if trial.predictions is None and not any("environment" in attempt for attempt in trial.attempts):
            missing.append(trial.id)  # of an earlier version, which kept none
            continue
        try:
            test_set, kept = (np.load(io.BytesIO(x)) for x in (files[f"labels/{trial.cell[2]}.npz"], trial.predictions))
            labels, own = test_set["labels"], kept["labels"]
            counted = own != NO_CLASS  # an image that could not be read doesn't count
            if not (np.array_equal(own[counted], labels[counted]) and np.array_equal(test_set["names"], kept["names"])):
                raise ValueError("its labels or images aren't those of the test set")
            if not same(trial.test, accuracy := float((kept["classes"][:, 0] == labels)[counted].mean())):
                raise ValueError(f"{accuracy:.6f} of its predictions are right, its result says {trial.test:.6f}")
        except Exception as error:  # NumPy and zipfile raise many kinds
            problems.append(f"{trial.id}: {error!s:.120}")
    unchecked = missing and f"no predictions of {', '.join(missing[:3])}"
    claim(f"accuracies of {len(finished)} finished trials, from predictions and labels", problems, unchecked)


def unlike_its_rule(line, there, journals, is_certain):
    """What of a decision doesn't follow from its trial's journals, the values that were there, and its rule."""
    value, others, cutoff = line["value"] or 0.0, [other or 0.0 for other in line["compared"]], line["cutoff"]
    rule, ranked = line["rule"], sorted([value, *others], reverse=True)
    means = [fmean(each) for n in range(len(journals)) for each in combinations(journals[:10], n + 1)]  # of some seeds
    if all(abs(mean - value) > EXACT for mean in means) and len(journals) <= 10:
        yield f"{value:g} isn't its journal's {journals[:3]}"
    if any(min(abs(other - each) for each in there) > EXACT for other in others):
        yield "it was compared with what no candidate had"
    if rule.startswith("ASHA"):  # with who came before
        is_known = min(others) <= cutoff <= max(others) if others else cutoff is None
        follows = cutoff is None or value >= cutoff or "last live" in rule
    else:  # all of a cell's candidates together, the best going on
        num, at, place, kept = map(int, re.fullmatch(RUNG, rule).groups()[:4])
        is_known = num == len(ranked) <= len(there) and at == line["rung"] and same(ranked[place - 1], value)
        is_known, follows = is_known and cutoff == ranked[min(kept, num) - 1], place <= kept or is_certain
    said = "is no" if line["value"] is None else f"{value:.4f}"
    if not is_known or f"step {line['step']}: val/accuracy {said} " not in rule:
        yield "its rule says else than its values"
    if line["action"] not in (["goes on"] if follows else ["stays paused", "stops"]) and "already" not in rule:
        yield f"{line['action']}, with {value:g} beside {others[:4]}"


def check_decisions(files, trials):
    figures, lines, problems = read_published(files)[0], lines_of(files, "sweeps/.*/decisions.jsonl"), []
    values_at, rules = defaultdict(list), defaultdict(set)
    known = [each for each in lines if each["trial_id"] in trials and each["rule"].startswith(("rung of", "ASHA at"))]
    for line in lines:
        values_at[line["group"], line["rung"]].append(number(line["value"] or 0.0, 0, 1))
        rules[line["trial_id"]].add(line["rule"])
    for line in known:
        trial, there = trials[line["trial_id"]], values_at[line["group"], line["rung"]]
        seeds = [t for t in [*trials.values(), *repeats.values()] if (t.recipe, t.cell) == (trial.recipe, trial.cell)]
        journals = [value for each in seeds if (value := each.value_at(line["rung"])) is not None]
        unlike = unlike_its_rule(line, there, journals, figures.get(trial.cell, {}).get("base_lr") == trial.recipe[0])
        problems += [f"{trial.id} at {line['rung']}: {each}" for each in unlike]
    claim(f"{len(known)} decisions follow from journals", problems)
    claim("all decisions are at rungs", [], len(known) < len(lines) and f"{len(lines) - len(known)} are a rehearsal's")
    causes = {trial.id: str(trial.result.get("cause")) for trial in trials.values() if trial.status == "stopped"}
    unlike = [n for n, why in causes.items() if (rules or "at step" in why) and why not in rules.get(n, {PASSED_OVER})]
    claim(f"{len(causes)} stopped trials were stopped by what was decided", unlike)


def choose(finished):
    """The seeds of the recipe with the best mean validation accuracy over the seeds that all recipes share."""
    by_recipe = defaultdict(dict)
    for trial in sorted(finished, key=lambda t: (t.recipe, t.seed)):
        by_recipe[trial.recipe][trial.seed] = trial
    seeds = sorted({seed for own in by_recipe.values() for seed in own})
    commonest = max(seeds, key=lambda seed: sum(seed in own for own in by_recipe.values()), default=None)
    compared = [own for own in by_recipe.values() if commonest in own]
    shared = [seed for seed in seeds if all(seed in own for own in compared)]
    return list(max(compared, key=lambda own: round(fmean(own[s].validation for s in shared), 9), default={}).values())


def beyond(t, df):
    """How likely Student's t is this far from zero: t / sqrt(df) is the tangent of what has density cos^(df - 1)."""
    ends = np.array([[math.atan(abs(t) / math.sqrt(df))], [math.pi / 2]])
    within, whole = (ends * np.cos(ends * (PLACES + 1) / 2) ** (df - 1)) @ WEIGHTS
    return float(1 - within / whole)


def quantile(chance, df):
    """How far from zero Student's t is with this chance, on either side."""
    low, high = 0.0, 1e3
    while high - low > EXACT / 10:
        middle = (low + high) / 2
        low, high = (middle, high) if beyond(middle, df) > chance else (low, middle)
    return low


def pooled(groups):
    """(standard deviation within groups, degrees of freedom)."""
    df = sum(len(group) - 1 for group in groups)
    squares = math.fsum((value - fmean(group)) ** 2 for group in groups for value in group)
    return math.sqrt(squares / df) if df else 0.0, df


def read_published(files):
    """Figures by cell, kinds of runs (what single runs differ by is pooled within one), repeats by data set."""
    figures, kinds, repeats = {}, set(), defaultdict(lambda: defaultdict(list))
    for name in ("official", "paper", "reimplementation"):
        for row in rows_of(files, f"published/{name}.csv"):
            key = (*(row[n] for n in CELL[:3]), *(int(row[n]) for n in CELL[3:7]), float(row["dropout"]))
            kinds |= {key[2:7]} if name != "reimplementation" else set()
            numbers = {n: float(row[n]) if row[n] else None for n in ("accuracy", "base_lr")}
            if row["accuracy"]:
                figures.setdefault(key, row | numbers | {"table": name})
    for row in rows_of(files, "published/replicates.csv") + rows_of(files, "published/official.csv"):
        value, spread = float(row["accuracy"]), float(row.get("deviation") or 0)
        runs = [value - spread, value, value + spread] if spread else [value]
        repeats[row["dataset"]][row["model"], row["dropout"], row["base_lr"]] += runs
    return figures, kinds, {dataset: list(groups.values()) for dataset, groups in repeats.items()}


def cells_of(rows, trials, figures):
    """Of each row of the table: itself, its cell, candidates, chosen seeds, figure, and the seeds that this judges."""
    for row in rows:
        key = tuple(row[name] for name in CELL)
        wanted = {name: row[name] for name in CELL if row[name] is not None}
        own = [t for t in trials.values() if wanted.items() <= t.config.items()]
        if row["chosen_warmup_steps"] not in (None, wanted.pop("warmup_steps")) or not own:  # that was searched
            own = [t for t in trials.values() if wanted.items() <= t.config.items()]
        finished, figure = sorted((t for t in own if t.status == "finished"), key=lambda t: t.seed), figures.get(key)
        chosen = judged = choose(finished)
        if figure and figure["base_lr"]:  # of one rate that was fixed before
            judged = [t for t in finished if t.recipe[::2] == (figure["base_lr"], row["warmup_steps"])]
        yield row, key, own, chosen, figure, judged


def choices(cells):
    """(part of the table, its row, columns as they should be): what was chosen, counted and published."""
    for row, key, own, chosen, figure, _ in cells:
        recipe, states = chosen[0].recipe if chosen else (None,) * 3, [(t.status, t.recipe) for t in own]
        tests, mean = [t.test for t in chosen], fmean(t.validation for t in chosen) if chosen else None
        name = f"{row['model']}/{row['dataset']}/{'searched' if key[-1] is None else float(key[-1])}"
        choice = {"cell": row["cell"] if f"{row['cell']}/".startswith(f"{name}/") else name, "num_seeds": len(chosen)}
        choice |= {"trial_ids": " ".join(t.id for t in chosen), "accuracies": " ".join(map(str, tests))}
        choice |= {"accuracy": fmean(tests) if tests else None, "validation_accuracy": mean}
        choice |= {"accuracy_deviation": stdev(tests) if tests[1:] else None}
        yield "choice", row, choice | {f"chosen_{name}": recipe[i] for i, name in enumerate(RECIPE)}
        numbers = {f"num_{status}": [each for each, _ in states].count(status) for status in STATUSES}
        hours = {"hours": sum(t.hours for t in own), "saved_hours": sum(t.saved for t in own)}
        hours |= {"wall_hours": fmean(t.result.get("runtime_hours") or 0.0 for t in chosen) if chosen else None}
        yield "counts and hours", row, numbers | hours | {"num_stopped_seeds": states.count(("stopped", recipe))}
        said = ("accuracy", "table", "base_lr", "caveat", "source")
        yield "figures", row, {f"published_{name}": figure and figure[name] for name in said}


def verdicts(cells, kinds, published):
    """The same of verdicts: two one-sided t tests against the margin (Schuirmann 1987), and Holm's test over all."""
    repeats, judgements = defaultdict(dict), []
    for _, key, own, chosen, _, judged in cells:
        for group in (chosen, judged) if key[-1] is not None else ():  # where none was stopped: those left are better
            if group and not any(t.status == "stopped" and t.recipe == group[0].recipe for t in own):
                repeats[key[2:7]][group[0].id] = [t.test for t in group]
    for row, key, _, _, figure, judged in cells:
        if not figure or not judged:
            yield "verdicts", row, {"verdict": None}
            continue
        groups = [group for group in repeats[key[2:7]].values() if len(group) > 1]
        is_enough = pooled(groups)[0] and pooled(groups)[1] >= 4
        pool = [*published[key[2]], *groups] if key[2:7] in kinds else groups if is_enough else published[key[2]]
        (spread, df), margin, tests = pooled(pool), MARGINS[key[2]], [t.test for t in judged]
        error = spread * math.sqrt(1 / len(tests) + 1 / int(figure["num_seeds"] or 1))
        difference, half = fmean(tests) - figure["accuracy"], quantile(SIGNIFICANCE, df) * error
        verdict = "inconclusive" if abs(difference) <= half else "above" if difference > 0 else "below"
        verdict = "reproduced" if abs(difference) + quantile(2 * SIGNIFICANCE, df) * error < margin else verdict
        columns = {"verdict": verdict, "difference": difference, "p_value": beyond(difference / error, df)}
        columns |= {"interval_95_low": difference - half, "interval_95_high": difference + half, "margin": margin}
        columns |= {"spread": spread, "spread_degrees_of_freedom": df, "judged_accuracies": " ".join(map(str, tests))}
        yield "verdicts", row, columns | {"judged_base_lr": judged[0].recipe[0]}
        judgements.append((columns["p_value"], row, key[2:7], columns, error))
    ordered = sorted(each[0] for each in judgements)  # Holm (1979): one wrong among all cells in at most 5% of tables
    limit = next((p for i, p in enumerate(ordered) if p > SIGNIFICANCE / (len(ordered) - i)), math.inf)
    for p_value, row, kind, columns, _ in judgements:
        own = [each for each in judgements if each[2] == kind]
        difference = fmean(each[3]["difference"] for each in own)
        error = math.sqrt(math.fsum(each[4] ** 2 for each in own)) / len(own)
        half = quantile(2 * SIGNIFICANCE, columns["spread_degrees_of_freedom"]) * error
        joint = {"differs_in_whole_table": p_value < limit, "mean_difference": difference}
        joint |= {"mean_interval_90_low": difference - half, "mean_interval_90_high": difference + half}
        yield "joint verdict", row, joint | {"mean_is_within_margin": abs(difference) + half < columns["margin"]}


def check_table(files, trials):
    rows, (figures, kinds, published) = json.loads(files["report/table.json"]), read_published(files)
    cells, wrong = [*cells_of(rows, trials, figures)], defaultdict(list)
    for part, row, columns in [*choices(cells), *verdicts(cells, kinds, published)]:
        unlike = [(name, value) for name, value in columns.items() if not same(row.get(name), value)]
        wrong[part] += [f"{row['cell']}: {n} is {row.get(n)!r:.60}, computed {value!r:.60}" for n, value in unlike]
    asked = [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]
    wrong["table.csv"] = ["it says else than table.json"] * (rows_of(files, "report/table.csv") != asked)
    page = files["report/report.html"].decode()
    said = ["" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f}" for row in rows]
    shown = re.findall(r'data-label="accuracy"><div>([\d.]*)', page)[: len(rows)]
    marked = re.findall(r'data-label="verdict"><div>\W*(reproduced|above|below|inconclusive|)', page)
    is_same = shown == said and marked == [row["verdict"] or "" for row in rows if "verdict" in row]
    is_same &= sorted(re.findall(r"<b>\W*([\d.]+)</b>", page)) == sorted(filter(None, said))
    wrong["report.html"] = ["its accuracies or verdicts are others"] * (not is_same)
    for part in ("choice", "counts and hours", "figures", "verdicts", "joint verdict", "table.csv", "report.html"):
        claim(f"table: {part} of {len(rows)} cells", wrong[part])
    claim("every trial is a candidate of a row", sorted(trials.keys() - {t.id for each in cells for t in each[2]}))
    for row in rows:
        say(f"{row['cell']}: {row['accuracy']}, {row.get('verdict') or 'nothing to compare with'}")


def main():
    place = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent
    try:
        files, trials = read_files(place), {}
        json.loads(files["manifest.json"])["root"]
    except Exception as error:
        print(f"error: {place} is no bundle of evidence ({error!s:.200}): give an evidence.zip", file=sys.stderr)
        return 2
    for check in (check_files, check_runs, check_accuracies, check_decisions, check_table):
        try:
            check(files, trials)
        except Exception as error:
            claim(check.__name__.replace("_", " "), [f"a file is not as it should be: {error!r:.120}"])
    print(__doc__.split("\n\n")[-1], ", ".join(f"{count} {name}" for name, count in counts.items()), sep="")
    return 1 if counts["differs"] else 0


if __name__ == "__main__":
    sys.exit(main())
