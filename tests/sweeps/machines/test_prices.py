"""Dollars, from the machines that a cluster's file names."""

from pathlib import Path

import pytest

from sweeps.machines.node_types import NodeType, node_types
from sweeps.machines.prices import MACHINES, cards_of, limit_in_hours, price_of
from sweeps.paper_grid import app
from vit_trainer.cards import CARDS
from vit_trainer.command_line import run
from vit_trainer.errors import InputError

CLUSTERS = Path(__file__).parents[3] / "clusters"
P4D = NodeType("p4d", 96, 8, 4, "p4d.24xlarge")
P5 = NodeType("p5", 192, 8, 4, "p5.48xlarge")
UNKNOWN = NodeType("x", 8, 1, 4, "x9.large")


def test_machines_are_of_known_cards() -> None:
    assert {machine.card for machine in MACHINES.values()} <= set(CARDS)
    assert cards_of([P4D, UNKNOWN]) == [CARDS["A100-40GB"]]


def test_the_dearest_known_machine_gives_the_price_unless_one_was_given() -> None:
    price = price_of(None, [P4D, P5, UNKNOWN])
    assert price is not None
    assert price.dollars == 55.04 / 8
    assert "p5.48xlarge" in price.source
    assert price_of(None, [UNKNOWN]) is None
    given = price_of(1.5, [P4D])
    assert given is not None
    assert given.dollars == 1.5


def test_dollars_are_hours_and_the_smaller_limit_counts() -> None:
    price = price_of(None, [P4D])
    assert limit_in_hours(None, 219.6, price) == pytest.approx(80)
    assert limit_in_hours(50, 219.6, price) == 50
    assert limit_in_hours(50, None, None) == 50
    assert limit_in_hours(None, None, price) is None
    with pytest.raises(InputError, match=r"max_dollars 10 on a cluster whose machines have no price .*--price-per-gpu"):
        limit_in_hours(None, 10, price_of(None, [UNKNOWN]))


def test_the_machines_of_the_cluster_files_have_prices() -> None:
    for name in ("a100.yaml", "gcp-a100.yaml"):
        (kind,) = node_types(CLUSTERS / name)
        assert kind.machine in MACHINES


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        run(app, ["--preset", "paper", *arguments])
    captured = capsys.readouterr()
    return int(str(ended.value.code)), captured.out + captured.err


def test_a_plan_for_a_cluster_that_is_not_launched_yet(capsys: pytest.CaptureFixture[str]) -> None:
    code, text = plan(capsys, "--plan", "--cluster", str(CLUSTERS / "a100.yaml"))
    assert code == 0
    assert " on 32 GPUs" in text
    assert "; 731 GPU-hours ($2,007." in text
    assert "price: $2.75 per GPU-hour, p4d.24xlarge at its list price of $21.96 per hour" in text
    assert "A100-40GB" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--cluster", str(CLUSTERS / "a100.yaml")], "is for a plan: give --plan too"),
        (["--plan", "--cluster", str(CLUSTERS / "local.yaml")], "names no workers with GPUs"),
        (["--plan", "--cluster", "nothing.yaml"], "nothing.yaml is no cluster file (FileNotFoundError"),
        (["--max-dollars", "-1"], "max_dollars -1 is not a positive number: give dollars such as 500"),
    ],
)
def test_bad_input_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, text = plan(capsys, *arguments)
    assert code == 2
    assert message in text
    assert len(text.strip().splitlines()) == 1
