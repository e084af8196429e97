"""A trial's model in MLflow's form: what it answers, to whom, and what it says of what is no image."""

import base64
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from tests.vit_trainer.finished_trial import finished_trial
from vit_trainer.data.decoding import read_image
from vit_trainer.files.run_dir import RunDir
from vit_trainer.inference.classifier import Classifier
from vit_trainer.inference.served_model import MlflowException, mlflow, save_served_model
from vit_trainer.weights.choice import WeightsChoice

pytestmark = pytest.mark.filterwarnings("ignore:Operation with range is deprecated")  # MLflow's own


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a trial, its model in `model`, and images."""
    folder = tmp_path_factory.mktemp("storage")
    _, run_dir = finished_trial(folder)
    save_served_model(run_dir, folder / "model")
    for number in range(11):
        Image.linear_gradient("L").rotate(30 * number).save(folder / f"{number:02}.png")
    return folder


def test_it_answers_with_names_and_takes_base64_as_people_have_it(folder: Path) -> None:
    (run,) = (folder / "runs").iterdir()
    files = sorted(folder.glob("*.png"))
    plain = [base64.b64encode(file.read_bytes()).decode() for file in files]
    broken = base64.encodebytes(files[0].read_bytes()).decode()
    assert broken.count("\n") > 1
    urls = [f"data:image/png;base64,{each}" for each in (plain[0], broken)]
    served = mlflow.pyfunc.load_model(str(folder / "model"))
    answers = served.predict(pd.DataFrame({"image": [*plain, broken, *urls]}))
    with WeightsChoice(trial=run.name, storage=str(folder)).opened() as weights:
        classifier = Classifier.load(weights)
    for answer, file in zip(answers.to_dict("records"), [*files, *files[:1] * 3], strict=True):
        expected = classifier.probabilities(classifier.input_of(read_image(file)))[0]
        assert [answer["probabilities"][name] for name in "02468"] == pytest.approx(expected.tolist(), abs=1e-6)
        falling = list(answer["probabilities"].values())
        assert falling == sorted(falling, reverse=True)
        assert answer["class"] == "02468"[int(expected.argmax())]
        assert answer["probability"] == answer["probabilities"][answer["class"]]
    assert served.predict(pd.DataFrame({"image": []}, dtype=str)).empty


def test_its_example_is_answered_and_its_signature_is_that_of_its_answers(folder: Path) -> None:
    served = mlflow.pyfunc.load_model(str(folder / "model"))
    answers = served.predict(served.input_example)
    assert list(answers) == served.metadata.signature.outputs.input_names() == ["class", "probability", "probabilities"]


def test_what_is_no_image_is_named_by_its_row(folder: Path) -> None:
    served = mlflow.pyfunc.load_model(str(folder / "model"))
    image = base64.b64encode((folder / "00.png").read_bytes()).decode()
    text = base64.b64encode(b"no image").decode()
    with pytest.raises(MlflowException) as raised:
        served.predict(pd.DataFrame({"image": [image, "aaa", "data:text/plain,hello", text, "ä"]}))
    assert raised.value.get_http_status_code() == 400
    assert raised.value.message == (
        "row 2 of 5 is no image (not base64: Incorrect padding); row 3 of 5 is no image (its data: URL isn't "
        "base64-encoded); row 4 of 5 is no image (not an image that Pillow knows); row 5 of 5 is no image (not base64: "
        "string argument should contain only ASCII characters): give image files such as JPEG or PNG, base64-encoded "
        "or as data: URLs"
    )


def test_nothing_is_said_while_it_is_saved(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (run,) = (folder / "runs").iterdir()
    save_served_model(RunDir(run), tmp_path / "model")
    assert capfd.readouterr() == ("", "")
