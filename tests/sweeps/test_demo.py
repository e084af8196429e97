"""What the README promises: the whole miniature grid in five minutes, and its runs in MLflow's page."""

import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeps.cells import MINI
from vit_trainer.run_dir import RunDir

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
    numbers = [float(number) for number in re.findall(r"│\s+(\d+\.\d\d)", done.stdout)]
    assert len(numbers) == len(MINI.models) * len(MINI.datasets) * len(MINI.dropouts) == 20
    assert min(numbers) >= 95, done.stdout
    results = [RunDir(path).result() for path in (storage / "runs").iterdir()]
    assert len(results) == 40
    assert {result["status"] for result in results if result is not None} == {"finished", "stopped"}


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


@pytest.mark.skipif(not CHROMIUM.exists(), reason="needs Debian's chromium: apt-get install chromium")
def test_mlflow_shows_every_trial(mlflow_ui: str, storage: Path) -> None:
    from playwright.sync_api import sync_playwright

    trial_ids = {path.name for path in (storage / "runs").iterdir()}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=CHROMIUM_FLAGS)
        page = browser.new_page(viewport={"width": 1600, "height": 1700})
        page.goto(f"{mlflow_ui}/#/experiments/1/runs")
        page.get_by_text(f"{len(trial_ids)} matching runs").wait_for(timeout=60_000)
        page.get_by_text("mini-digits-").first.wait_for(timeout=60_000)
        listed = page.inner_text("body")
        page.screenshot(path=str(storage / "mlflow-runs.png"))
        page.goto(f"{mlflow_ui}/#/experiments/1/runs?compareRunsMode=CHART")
        for metric in ("test/accuracy", "train/loss", "val/accuracy"):
            page.get_by_text(metric).first.wait_for(timeout=60_000)
        page.screenshot(path=str(storage / "mlflow-charts.png"))
        browser.close()
    assert sum(trial_id in listed for trial_id in trial_ids) >= 20  # the rest is below the fold
