"""What the README promises: the whole miniature grid in five minutes, and its runs in MLflow's page."""

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sweeps.table.cells import MINI
from vit_trainer.files.run_dir import RunDir

if TYPE_CHECKING:
    from playwright.sync_api import Locator

SCRIPT = Path(__file__).parents[2] / "sweeps" / "paper_grid.py"
CHROMIUM = Path("/usr/bin/chromium")
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]

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


@pytest.fixture
def mlflow_ui(demo: object, storage: Path) -> Iterator[str]:
    """The address of MLflow's page, started as the sweep's last line says."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "ui", "--workers", "1", "--port", str(port)]
    with subprocess.Popen([*command, "--backend-store-uri", f"sqlite:///{storage}/mlflow.db"]) as server:
        address = f"http://127.0.0.1:{port}"
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).read()
                break
            except (urllib.error.URLError, TimeoutError):
                time.sleep(0.5)
        yield address
        server.terminate()


def compare_in_browser(address: str, cell: str, trial_ids: list[str], pictures: Path) -> list[str]:
    """What MLflow's pages say when someone selects a cell's trials and compares them: the texts of three pages."""
    from playwright.sync_api import sync_playwright

    texts = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1900, "height": 1700})
        page.set_default_timeout(120_000)

        def look(picture: str) -> None:
            page.screenshot(path=str(pictures / picture))
            texts.append(page.inner_text("body"))

        def row(name: str) -> "Locator":
            return page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True))

        page.goto(f"{address}/#/experiments/1/runs")
        row(cell).get_by_role("button").first.click()
        for trial_id in trial_ids:
            row(trial_id).get_by_role("checkbox", name="Press Space to toggle row selection").check()
        look("mlflow-cell.png")
        page.get_by_role("button", name="Compare").click()
        page.locator(".js-plotly-plot .parcoords").first.wait_for()
        page.locator(".parcoords").get_by_text("base_lr").first.wait_for()
        look("mlflow-compared.png")
        page.get_by_role("link", name="val/accuracy").first.click()
        page.locator(".js-plotly-plot .scatterlayer .trace").nth(len(trial_ids) - 1).wait_for()
        for trial_id in trial_ids:
            page.get_by_text(f"{trial_id} (val/accuracy)").wait_for()
        look("mlflow-curves.png")
        browser.close()
    return texts


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium: apt-get install chromium")
def test_mlflow_shows_the_table_s_cells_and_compares_the_trials_of_one(mlflow_ui: str, storage: Path) -> None:
    results = {path.name: RunDir(path).result() or {} for path in (storage / "runs").iterdir()}
    trial_ids = sorted(trial_id for trial_id in results if trial_id.startswith("ViT-B_32-mini-digits-even-d0-"))
    cell = "ViT-B_32-mini digits-even 32px 80 steps d0 from digits"
    runs, compared, curves = compare_in_browser(mlflow_ui, cell, trial_ids, storage)
    assert "61 matching runs" in runs  # 40 trials in 20 cells, and the sweep itself
    for model, dataset, dropout in product(MINI.models, MINI.datasets, MINI.dropouts):
        assert f"{model} {dataset} 32px 80 steps d{dropout:g} from digits" in runs
    assert f"Comparing {len(trial_ids)} Runs" in compared
    for trial_id in trial_ids:
        assert trial_id in compared
        if "test/accuracy" in results[trial_id]:
            assert f"{results[trial_id]['test/accuracy']:.3f}" in compared
        assert f"(step={results[trial_id]['step']})" in curves
