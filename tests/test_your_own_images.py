"""docs/your-own-images.md as someone follows it: every block in order, in an empty folder, to a model that answers."""

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "your-own-images.md").read_text()
NAMES = ["zero", "one", "two", "three", "four"]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def blocks() -> list[str]:
    """The page's commands and programs as lines for bash, but for those of a reader's own folder or bucket."""
    found = re.findall(r"^```(sh|python)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    own = [(kind, text) for kind, text in found if "./mine" not in text and "s3://" not in text]
    return [text if kind == "sh" else f"python - <<'END'\n{text}END\n" for kind, text in own]


def make_odd(folder: Path) -> None:
    """Some of the images as phones, scanners and old programs leave them: sideways, with 16 bits, and so on."""
    first, second, third, fourth = sorted(folder.glob("2*.png"))[:4]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.open(first).transpose(Image.Transpose.ROTATE_90).save(first.with_suffix(".JPG"), exif=exif, quality=95)
    Image.fromarray(np.asarray(Image.open(second)).astype(np.uint16) * 257).save(second.with_suffix(".tif"))
    Image.open(third).save(third.with_suffix(".gif"))
    (folder / "more").mkdir()
    Image.open(fourth).convert("RGBA").save(folder / "more" / fourth.name)
    for path in (first, second, third, fourth):
        path.unlink()
    (folder / "notes.txt").write_text("taken on Sunday")


def test_the_page_works_from_the_folder_to_the_server(tmp_path: Path) -> None:
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    own = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    environment = os.environ | own | {"RAY_ADDRESS": "local", "CUDA_VISIBLE_DEVICES": ""}

    def bash(script: str) -> str:
        process = subprocess.Popen(
            ["bash", "-euxo", "pipefail", "-c", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=environment,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=500)
        except BaseException:  # nothing is left running, Ray neither
            os.killpg(process.pid, signal.SIGTERM)
            process.communicate(timeout=60)
            raise
        assert process.returncode == 0, err
        assert "Traceback" not in err
        return out

    making, *commands, ask = blocks()
    bash(making)
    assert len(list((tmp_path / "digits").rglob("*.png"))) == 200
    make_odd(tmp_path / "digits" / "train" / "three")
    out = bash("".join(commands))
    assert "200 images in 5 classes" in out
    assert "500 steps of 64 images" in out
    (accuracy,) = (float(found) for found in re.findall(r"top-1 ([\d.]+)% \(.* of 50 images", out))
    assert accuracy > 50, "chance is 20"
    (listing,) = re.findall(r"^file,class,probability\n((?:digits/.*\n)*)", out, re.MULTILINE)
    assert len(listing.splitlines()) == round(50 * (1 - accuracy / 100))
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    assert [sum(row["file"].startswith(f"digits/{part}/") for row in rows) for part in ("test", "train")] == [50, 50]
    (first,) = (row["class"] for row in rows if row["file"] == "digits/test/zero/30.png")
    assert f"\n{first}\n" in out, "ONNX's answer"

    serve = re.search(r"^To serve it: (.*)$", out, re.MULTILINE)
    assert serve is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    server = subprocess.Popen(
        serve[1].replace("5001", port), shell=True, start_new_session=True, cwd=tmp_path, env=environment
    )
    try:
        ping = ["curl", "-sS", "--retry", "100", "--retry-delay", "1", "--retry-connrefused", f"localhost:{port}/ping"]
        subprocess.run(ping, check=True, timeout=120)
        (answer,) = json.loads(bash(ask.replace("5001", port)))["predictions"]
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
    assert answer["class"] == first
    assert set(answer["probabilities"]) == set(NAMES)
