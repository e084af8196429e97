"""Makes the README's pictures from a demo: the live table in mid-run, and the top of the report, light and dark.

Command: python docs/pictures.py    (needs chromium; takes as long as the demo)
"""

import subprocess
import sys
import tempfile
import time
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from playwright.sync_api import sync_playwright  # noqa: E402
from rich.console import Console  # noqa: E402

from sweeps.display.from_folders import FolderWatch  # noqa: E402
from sweeps.display.live_table import Screen  # noqa: E402

DONE_OF_40 = 16
"""How many trials are done when the live table is taken."""
SIZE = {"width": 1000, "height": 760}


def main(folder: Path) -> None:
    """Run the miniature grid in a temporary storage and write the pictures to a folder."""
    with tempfile.TemporaryDirectory() as temporary:
        storage = Path(temporary) / "sweep-results"
        command = [
            sys.executable,
            str(ROOT / "sweeps" / "paper_grid.py"),
            "--preset",
            "mini",
            "--storage",
            str(storage),
        ]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as sweep:
            while len(list(storage.glob("runs/*/result.json"))) < DONE_OF_40:
                time.sleep(0.2)
                assert sweep.poll() is None
            console = Console(record=True, width=100, file=StringIO())
            console.print(Screen(FolderWatch(str(storage)).read()))
            console.save_svg(str(folder / "live-table.svg"), title="python sweeps/watch.py")
            assert sweep.wait() == 0
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
            for scheme in ("light", "dark"):
                page = browser.new_page(viewport=SIZE, color_scheme=scheme, device_scale_factor=1.5)
                page.goto((storage / "report" / "report.html").as_uri())
                page.screenshot(path=folder / f"report-{scheme}.png")
            browser.close()


if __name__ == "__main__":
    main(ROOT / "docs")
