"""MLflow's own page as one opens it: from its root by clicks to the comparison of a sweep's cells and trials."""

import math
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from mlflow import MlflowClient

from sweeps.options import SweepOptions
from sweeps.reporting.write import write_report
from sweeps.table.cells import Cell, Grid, Trial, cells_of, short_name
from sweeps.table.published import published_for
from sweeps.tracking.to_mlflow import SweepShipper, membership_of
from tests.stores import free_port
from vit_trainer.files.outgoing import outgoing
from vit_trainer.tracking.catalogue import Catalogue
from vit_trainer.tracking.sync import sync

if TYPE_CHECKING:
    from playwright.sync_api import Page

SWEEP = "paper_grid-paper"
CELLS = cells_of(Grid(("R50+ViT-B_16", "ViT-B_16", "ViT-L_16"), ("cifar10", "cifar100")))
RATES = (0.01, 0.03)
CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


def accuracy_of(cell: Cell, base_lr: float) -> float:
    """Made up: near what was published, with its learning rate nearer."""
    figure = published_for(cell)
    assert figure is not None
    return figure.accuracy + (0.0005 if base_lr == figure.base_lr else -0.004)


def leave_run(options: SweepOptions, trial: Trial) -> None:
    """What a finished trial leaves: it began a day ago."""
    run_dir, steps = options.run_dir(trial), trial.cell.schedule.total_steps
    run_dir.open_for_writing(trial.config.to_dict())
    accuracy, hours = accuracy_of(trial.cell, trial.base_lr), 4.0 + len(trial.cell.model) / 10
    row: dict[str, float] = {}
    for share in (0.25, 0.5, 0.75, 1.0):
        row = {"train/loss": 1 - share / 2, "val/accuracy": accuracy * (1 - math.exp(-9 * share)), "val/loss": 0.2}
        row |= {"step": int(share * steps), "lr": 0.01, "images_per_second": 300.0}
        run_dir.append({"time": time.time() - 86_400 + 3600 * hours * share, **row})
    took = {"runtime_hours": hours, "gpu_hours": hours}
    run_dir.write_result({**row, **took, "status": "finished", "test/accuracy": accuracy, "test/loss": 0.1})
    run_dir.close()


def leave_runs(options: SweepOptions, cells: list[Cell]) -> list[Trial]:
    """Those of cells, in a storage."""
    trials = [Trial(cell, base_lr, 0) for cell in cells for base_lr in RATES]
    for trial in trials:
        leave_run(options, trial)
    return trials


def ship(storage: Path, cells: list[Cell]) -> SweepShipper:
    """Cells of a whole sweep with their report, as a sweep ships them."""
    options = SweepOptions(storage=str(storage))
    trials = leave_runs(options, cells)
    shipper = SweepShipper(SWEEP, options)
    shipper.ship_all(trials)
    write_report(options.opened_storage, SWEEP)
    shipper.close(options.opened_storage.report(SWEEP))
    return shipper


def test_how_to_compare_is_quoted_and_a_server_has_its_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/a venv/bin/python")
    shipper = SweepShipper("a-sweep", SweepOptions(storage=str(tmp_path / "a storage")))
    command = f"'/a venv/bin/python' -m mlflow ui --workers 1 --backend-store-uri 'sqlite:///{tmp_path}/a storage/"
    assert shipper.how_to_compare == f"To compare the runs: {command}mlflow.db'"
    told: list[str] = []
    shipper.tell = told.append
    shipper._connected("7")
    page = "#/experiments/7/runs?workflowType=machine_learning&viewStateShareKey=cells&compareRunsMode=TABLE"
    assert told == [shipper.how_to_compare] == [outgoing(shipper.how_to_compare)]
    assert told[0].splitlines()[1:] == [f"and then open http://127.0.0.1:5000/{page}"]
    shipper.tracking_uri = "https://me:secret@host/mlflow/"
    assert shipper.how_to_compare == f"To compare the runs: https://host/mlflow/{page}"


@pytest.mark.slow
def test_what_shipping_asks_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests for a cell with two trials and a verdict, beyond what is asked once for a sweep."""
    calls: Counter[str] = Counter()

    def count(name: str) -> None:
        method = getattr(MlflowClient, name)

        def counted(self: MlflowClient, *arguments: object, **named: object) -> object:
            calls[name] += 1
            return method(self, *arguments, **named)

        monkeypatch.setattr(MlflowClient, name, counted)

    for name in [name for name in vars(MlflowClient) if re.match(r"(create|get|search|log|set|update|delete)_", name)]:
        count(name)
    of_sweep: Counter[str] = Counter()
    for number in (1, 2):
        options = SweepOptions(storage=str(tmp_path / f"{number} cells"))
        trials = leave_runs(options, CELLS[:number])
        Catalogue(options.opened_storage, SWEEP).add(
            {each.trial_id: membership_of(each.cell, "asha") for each in trials}
        )
        write_report(options.opened_storage, SWEEP)
        calls.clear()
        sync(options.opened_storage, options.opened_storage.tracking_uri)
        of_sweep, of_cell = calls.copy(), calls - of_sweep
    runs = {"search_runs": 2, "create_run": 1, "log_inputs": 1, "log_batch": 2, "set_terminated": 1}  # of each
    assert of_cell == Counter({name: 3 * times for name, times in runs.items()}) + Counter(search_runs=1, get_run=1)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Page"]:
    """MLflow's root page, of a server that was started as the sweep says, in folders with spaces."""
    from playwright.sync_api import sync_playwright

    folder = tmp_path_factory.mktemp("a folder")
    with pytest.MonkeyPatch.context() as patch:
        (folder / "a venv").symlink_to(sys.prefix)
        patch.setattr(sys, "executable", str(folder / "a venv" / "bin" / "python"))
        told = ship(folder / "a storage", CELLS).how_to_compare
    command, link = re.findall("To compare the runs: (.*)\nand then open (.*)", told)[0]
    with served(command, folder) as address, sync_playwright() as playwright:
        assert link.startswith("http://127.0.0.1:5000/#/")
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.context.set_default_timeout(120_000)
        page.goto(address)
        yield page
        browser.close()


@contextmanager
def served(command: str, folder: Path) -> Iterator[str]:
    """The address of `mlflow ui`, which a shell starts in a folder on a port of its own."""
    environment = os.environ | {"MLFLOW_PORT": str(port := free_port())}
    with subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=folder, env=environment) as server:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 120
        try:
            while True:
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=2).read()
                    break
                except (urllib.error.URLError, TimeoutError, ConnectionError):
                    assert server.poll() is None
                    assert time.monotonic() < deadline
                    time.sleep(0.2)
            yield address
        finally:
            server.terminate()


def click_to_sweep(page: "Page", sweep: str) -> None:
    """From the root to the page of a sweep, which MLflow takes for one about language models."""
    page.get_by_role("link", name="Experiments", exact=True).first.click()
    page.get_by_role("link", name=sweep, exact=True).first.click()
    page.get_by_role("button", name="Got it").click()  # about those


def opened(page: "Page", view: str, mode: str) -> "Page":
    """What a link of the note above every page opens."""
    with page.expect_popup() as new:
        page.locator(f"a[href*='viewStateShareKey={view}&compareRunsMode={mode}']").first.click()
    return new.value


def columns(page: "Page") -> list[str]:
    return [text.strip() for text in page.locator(".ag-header-cell").all_inner_texts() if text.strip()]


def row(page: "Page", name: str) -> list[str]:
    """What a run's row says, in the order of the columns on the screen."""
    index = page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True)).first
    number = index.get_attribute("row-index")
    cells = page.locator(f".ag-row[row-index='{number}'] .ag-cell").all()
    found = sorted((cell.bounding_box() or {"x": 0})["x"] for cell in cells)
    texts = {(cell.bounding_box() or {"x": 0})["x"]: cell.inner_text().strip() for cell in cells}
    return [texts[x] for x in found]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium: apt-get install chromium")
def test_clicks_lead_from_the_root_to_the_comparison(page: "Page", tmp_path: Path) -> None:
    click_to_sweep(page, SWEEP)
    ordered = sorted(CELLS, key=lambda cell: -max(accuracy_of(cell, rate) for rate in RATES))
    best, figure = ordered[0], published_for(ordered[0])
    assert figure is not None

    table = opened(page, "cells", "TABLE")
    table.get_by_role("link", name=short_name(best), exact=True).wait_for()
    table.get_by_text("reproduced").first.wait_for()
    table.screenshot(path=str(tmp_path / "cells.png"))
    names = [name for name in table.locator(".ag-row a").all_inner_texts() if name]
    assert names == [short_name(cell) for cell in ordered][: len(names)]
    accuracy = f"{round(accuracy_of(best, figure.base_lr or 0), 6):g}"
    texts = row(table, short_name(best))
    assert texts[(first := texts.index(accuracy)) : first + 4] == [
        accuracy,
        f"{figure.accuracy:g}",
        "0.0005",
        "reproduced",
    ]
    table.set_viewport_size({"width": 2900, "height": 900})
    table.get_by_text("total_steps").first.wait_for()
    shown = columns(table)
    for column in ("model", "dataset", "dropout", "chosen_base_lr", "test/accuracy", "published/accuracy"):
        assert column in shown
    assert {"accuracy_difference", "verdict", "runtime_hours", "gpu_hours", "num_seeds"} <= set(shown)
    assert not [text for text in row(table, short_name(best)) if text.startswith("-")]  # a duration, say
    table.close()

    charts = opened(page, "cells", "CHART")
    charts.set_viewport_size({"width": 1280, "height": 1800})
    charts.locator(".parcoords").first.wait_for()
    for title in ("test/accuracy", "accuracy_difference", "gpu_hours vs. test/accuracy", "Parallel Coordinates"):
        charts.get_by_text(title, exact=True).first.wait_for()
    charts.screenshot(path=str(tmp_path / "charts.png"))
    assert re.search(r"Cells\s*\(5\)\s", charts.inner_text("body"))
    charts.close()

    with page.expect_popup() as new:
        page.get_by_role("link", name="report", exact=True).click()
    new.value.frame_locator("iframe").get_by_text(f"Results of {SWEEP}").wait_for()
    new.value.close()


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium: apt-get install chromium")
def test_trials_are_selected_and_compared(page: "Page", tmp_path: Path) -> None:
    trial_ids = [Trial(CELLS[0], rate, 0).trial_id for rate in RATES]
    table = opened(page, "trials", "TABLE")
    for trial_id in trial_ids:
        found = table.get_by_role("row").filter(has=table.get_by_role("link", name=trial_id, exact=True))
        found.get_by_role("checkbox", name="Press Space to toggle row selection").check()
    table.screenshot(path=str(tmp_path / "trials.png"))
    table.get_by_role("button", name="Compare").click()
    table.locator(".parcoords").get_by_text("base_lr").first.wait_for()
    compared = table.inner_text("body")
    assert "Comparing 2 Runs" in compared
    assert all(trial_id in compared for trial_id in trial_ids)
    table.get_by_role("link", name="val/accuracy").first.click()
    table.locator(".js-plotly-plot .scatterlayer .trace").nth(1).wait_for()
    for trial_id in trial_ids:
        table.get_by_text(f"{trial_id} (val/accuracy)").wait_for()
