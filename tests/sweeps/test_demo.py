"""What the README promises: the whole miniature grid in five minutes, and its runs in MLflow's page."""

import re
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from sweeps.table.cells import MINI
from tests.sweeps.tracking.test_mlflow_page import CHROMIUM, CHROMIUM_FLAGS, opened, served
from vit_trainer.files.run_dir import RunDir

SCRIPT = Path(__file__).parents[2] / "sweeps" / "paper_grid.py"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "results"


@pytest.fixture(scope="module")
def demo(storage: Path) -> tuple[subprocess.CompletedProcess[str], float]:
    """The whole miniature grid, and how many seconds it took."""
    start = time.monotonic()
    command = [sys.executable, str(SCRIPT), "--preset", "mini", "--storage", str(storage)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=800)
    return done, time.monotonic() - start


def test_the_miniature_grid(demo: tuple[subprocess.CompletedProcess[str], float], storage: Path) -> None:
    done, seconds = demo
    assert done.returncode == 0, done.stderr
    assert seconds < 300
    table = done.stdout.rpartition("\nmodel ")[2].partition("test accuracy, %")[0]
    numbers = [float(number) for number in re.findall(r"\b\d\d+\.\d\d\b", table)]
    assert len(numbers) == len(MINI.models) * len(MINI.datasets) * len(MINI.dropouts) == 20
    assert min(numbers) >= 95, done.stdout
    results = [RunDir(path).result() for path in (storage / "runs").iterdir()]
    assert len(results) == 40
    assert {result["status"] for result in results if result is not None} == {"finished", "stopped"}


def test_the_table_is_counted_again_from_predictions_as_the_page_says(demo: object, storage: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "predictions.md").read_text()
    (script,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    report = [sys.executable, str(SCRIPT.with_name("report.py")), "--storage", str(storage)]
    subprocess.run(report, check=True, capture_output=True)
    command = [sys.executable, "-c", script, str(storage)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert len(lines) == 20 + 1
    assert re.fullmatch(r"\S.*: \d+\.\d\d%, class \d worst with \d+\.\d%", lines[0])
    assert lines[-1].startswith("the first alone is right on ")


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium: apt-get install chromium")
def test_its_last_lines_lead_to_the_cells_in_mlflow(
    demo: tuple[subprocess.CompletedProcess[str], float], storage: Path
) -> None:
    from playwright.sync_api import sync_playwright

    told = re.findall("To compare the runs: (.*)\nand then open http://127.0.0.1:5000/(.*)", demo[0].stdout)
    assert len(told) == 2, demo[0].stdout
    assert told[0] == told[1]
    command, link = told[0]
    with served(command, storage) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1280, "height": 1500})
        page.context.set_default_timeout(120_000)
        page.goto(f"{address}/{link}")
        for model, dataset, dropout in product(MINI.models, MINI.datasets, MINI.dropouts):
            page.get_by_role("link", name=f"{model} {dataset} d{dropout:g}", exact=True).wait_for()
        page.screenshot(path=str(storage / "mlflow-cells.png"))
        charts = opened(page, "cells", "CHART")
        charts.get_by_text("runtime_hours vs. test/accuracy").first.wait_for()
        charts.screenshot(path=str(storage / "mlflow-charts.png"), full_page=True)
        browser.close()
