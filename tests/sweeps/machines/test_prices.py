"""Dollars, from the machines that a cluster's file names."""

from datetime import date
from pathlib import Path

import pytest

from sweeps.machines.node_types import NodeType
from sweeps.machines.offers import MACHINES
from sweeps.machines.prices import cards_of, limit_in_hours, price_of
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


def test_every_price_has_its_day() -> None:
    for machine in MACHINES.values():
        if machine.price:
            assert date(2025, 1, 1) < date.fromisoformat(machine.price.read_on) <= date.today()


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
    assert "price: $2.75 per GPU-hour, p4d.24xlarge at its list price of $21.96 per hour on demand (2026-11-09)" in text
    assert "A100-40GB" in text


def test_a_machine_without_a_price_is_planned_and_the_price_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--plan", "--cluster", str(CLUSTERS / "one-gpu.yaml"), "--datasets", "cifar10", "--models", "ViT-B_32")
    code, text = plan(capsys, *arguments)
    assert code == 0
    assert " on 1 GPU" in text
    assert "A10G" in text
    assert "price: none is known here: --price-per-gpu-hour" in text
    assert "$" not in text
    _, text = plan(capsys, *arguments, "--price-per-gpu-hour", "1.2")
    assert "price: $1.2 per GPU-hour, as given" in text


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
