"""What the board shows: every state at every size, plain lines without a terminal, and one that changes its size."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from sweeps.display.live_table import Screen, is_interactive, summary_lines
from sweeps.display.sweep_display import SECONDS_BETWEEN_SUMMARIES, SweepDisplay
from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates
from sweeps.records.results import gather
from sweeps.table.cells import PAPER, Cell, Schedule, Trial, cell_of, cells_of
from sweeps.table.published import published_for
from tests.sweeps.storages import write_run
from tests.sweeps.terminal import Terminal
from vit_trainer.errors import InputError
from vit_trainer.files.storage import Storage

ROOT = Path(__file__).parents[3]
START = 1_790_000_000.0
CELLS = cells_of(PAPER)
HOUR = 3600.0


def row(step: int, accuracy: float | None, hours: float, at: float = START) -> dict[str, Any]:
    """A row of a trial on one GPU."""
    validation = {} if accuracy is None else {"val/accuracy": accuracy}
    return {"time": at, "step": step, "runtime_hours": hours, "gpu_hours": hours} | validation


def finished(accuracy: float, validation: float = 0.9, hours: float = 1.0) -> dict[str, Any]:
    return {
        "status": "finished",
        "step": 10_000,
        "test/accuracy": accuracy,
        "val/accuracy": validation,
        "gpu_hours": hours,
    }


STOPPED = {"status": "stopped", "step": 2500, "cause": "ASHA at step 2500: val/accuracy 0.5 is below the cutoff"}
FAILED = {"status": "failed", "step": 50, "cause": "NonFiniteLossError: the training loss is nan at step 50"}


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def candidates_of(cell: Cell) -> list[Trial]:
    return candidates(SweepOptions(preset="paper"), [cell])


def new_board(clock: Clock, cells: list[Cell] = CELLS, **options: Any) -> SweepDisplay:
    """A board with every candidate of some cells, on 8 GPUs, that prints into a file."""
    trials = candidates(SweepOptions(preset="paper"), cells)
    board = SweepDisplay(cells, len(trials), console=Console(file=io.StringIO(), width=200), clock=clock, **options)
    board.connected(8, on_gpus=True)
    for trial in trials:
        board.add(trial)
    return board


def printed(board: SweepDisplay) -> str:
    file = board.console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def every_state(clock: Clock) -> SweepDisplay:
    """Row by row: R50+ViT-B_16 is done, ViT-B_16 runs, ViT-B_32 has failed, the others wait."""
    board = new_board(clock)
    for cell in CELLS:
        first, second, third, fourth = (trial.trial_id for trial in candidates_of(cell))
        if cell.model == "R50+ViT-B_16":
            figure = published_for(cell)
            assert figure is not None
            (own,) = (trial.trial_id for trial in candidates_of(cell) if trial.base_lr == figure.base_lr)
            others = [trial_id for trial_id in (first, second, third, fourth) if trial_id != own]
            results = finished(figure.accuracy + 0.0012), STOPPED, STOPPED, FAILED
            for trial_id, result in zip((own, *others), results, strict=True):
                board.started(trial_id)
                board.reported(trial_id, row(2500, 0.5, 0.25))
                board.ended(trial_id, result)
        elif cell.model == "ViT-B_16" and cell.dataset == "cifar10":
            board.started(first)
            board.reported(first, row(5200, 0.9713, 0.52))
            board.started(second)
        elif cell.model == "ViT-B_32" and cell.dataset == "cifar10":
            for trial_id in (first, second, third, fourth):
                board.started(trial_id)
                board.ended(trial_id, FAILED)
    return board


def shown(board: SweepDisplay, num_columns: int, num_rows: int | None = None) -> list[str]:
    """The lines of a picture; without rows as many as it takes."""
    console = Console(width=num_columns, height=num_rows or 25, file=io.StringIO(), record=True)
    console.print(Screen(board.standing(), fits_height=num_rows is not None))
    return console.export_text().splitlines()


def lines_of(model: str, lines: list[str]) -> str:
    """A row of the table: from the line with the model's name to the one before the next name."""
    first = next(i for i, line in enumerate(lines) if line.startswith(f"{model} "))
    following = (i for i in range(first + 1, len(lines)) if not lines[i].startswith(" "))
    return "\n".join(lines[first : next(following)])


@pytest.mark.parametrize("num_columns", [80, 120, 200])
def test_every_state_is_told_in_words_at_every_width(clock: Clock, num_columns: int) -> None:
    lines = shown(every_state(clock), num_columns)
    assert max(map(len, lines[:-9])) <= num_columns
    assert "…" not in "".join(lines)
    of_done = lines_of("R50+ViT-B_16", lines)
    assert len(re.findall(r"\d\d\.\d\d done", of_done)) == 6
    assert of_done.count("+0.12") == of_done.count("2 stopped") == of_done.count("1 failed") == 6
    of_running = lines_of("ViT-B_16", lines)
    assert of_running.count("2 run 97.1") == of_running.count("2 waiting") == 2
    assert lines_of("ViT-B_32", lines).count("4 failed") == 2
    assert lines_of("ViT-L_16", lines).count("waiting") == 6
    said = [" ".join(line.split()) for line in lines]
    for dropout in ("d0", "d0.1"):
        assert f"ViT-B_16 cifar10 {dropout} 0.001 1/4 5.2k/10k 97.13 28m 1" in said
        assert f"ViT-B_16 cifar10 {dropout} 0.003 0/10k starting 1" in said
    assert "32 of 120 trials done (12 stopped, 14 failed), 4 running" in "\n".join(lines)


@pytest.mark.parametrize(
    ("num_columns", "row_of", "said"),
    [
        (120, {"images_per_second": 1049.6, "mfu": 0.379, "host": "node7"}, "28m 1,050 38% 1 node7"),
        (120, {"images_per_second": 1049.6}, "28m 1,050 1"),
        (80, {"images_per_second": 1049.6, "mfu": 0.379, "host": "node7"}, "28m 1,050 38% 1"),
    ],
)
def test_running_candidates_are_listed_with_their_speed_and_place_as_far_as_there_is_room(
    clock: Clock, num_columns: int, row_of: dict[str, Any], said: str
) -> None:
    board = every_state(clock)
    first = next(each for each in board.standing().running if each.step)
    board.reported(first.trial_id, row(5200, 0.9713, 0.52) | row_of)
    lines = [" ".join(line.split()) for line in shown(board, num_columns)]
    assert f"ViT-B_16 cifar10 d0 0.001 1/4 5.2k/10k 97.13 {said}" in lines
    few = [" ".join(line.split()) for line in shown(board, num_columns, 17)]
    assert len([line for line in few if " cifar10 d0" in line and "/10k" in line]) in (0, 3)
    assert ("and 1 more" in few) == any("/10k" in line for line in few)


def test_what_is_silent_is_in_the_legend(clock: Clock) -> None:
    board = every_state(clock)
    standing = board.standing()
    trials = tuple(replace(each, silent_seconds=700.0 if each.is_running else None) for each in standing.trials)
    console = Console(width=120, file=io.StringIO(), record=True)
    console.print(Screen(replace(standing, trials=trials)))
    text = console.export_text()
    assert "silent 11m" in text
    assert "; silent: for so long no sign of life" in text


def test_the_best_of_the_finished_is_shown_while_others_run(clock: Clock) -> None:
    cell = CELLS[0]
    board = new_board(clock, [cell])
    first, second, third, _ = (trial.trial_id for trial in candidates_of(cell))
    for trial_id, result in ((first, finished(0.97, 0.98)), (second, finished(0.99, 0.95)), (third, STOPPED)):
        board.started(trial_id)
        board.ended(trial_id, result)
    assert "97.00 3/4" in lines_of(cell.model, shown(board, 120))  # chosen by validation, not by test accuracy


def test_of_several_seeds_the_mean_is_shown_as_in_the_verdict(clock: Clock) -> None:
    cell = CELLS[0]
    trials = [Trial(cell, 0.01, seed) for seed in (0, 1)] + [Trial(cell, 0.03, 0)]
    board = SweepDisplay([cell], 3, console=Console(file=io.StringIO()), clock=clock)
    for trial, result in zip(trials, (finished(0.98), finished(0.96), finished(0.99, 0.5)), strict=True):
        board.add(trial)
        board.ended(trial.trial_id, result)
    chosen = board.standing().chosen(cell)
    assert chosen is not None
    assert chosen.accuracy == pytest.approx(0.97)
    assert "97.00 done" in lines_of(cell.model, shown(board, 120))


def test_a_mean_of_the_seeds_that_early_stopping_left_is_marked_and_their_spread_is_shown(clock: Clock) -> None:
    cell = CELLS[0]
    figure = published_for(cell)
    assert figure is not None
    trials = [Trial(cell, 0.01, seed) for seed in (0, 1, 2)] + [Trial(cell, 0.03, 0)]
    board = SweepDisplay([cell], 4, console=Console(file=io.StringIO(), width=80), clock=clock)
    for trial, result in zip(trials, (finished(0.98), finished(0.96), STOPPED, finished(0.9, 0.5)), strict=True):
        board.add(trial)
        board.ended(trial.trial_id, result)
    lines = shown(board, 120)
    assert f"97.00* done {100 * (0.9 - figure.accuracy):+.2f}!@0.03" in lines_of(cell.model, lines)
    legend = (
        "!: further from the published than the margin; @: difference of the run with the published rate; "
        "*: of the seeds that early stopping left; x: seeds"
    )
    assert legend in " ".join(" ".join(lines).split())
    board.console.print(board.table())
    assert "97.00*" in printed(board)
    assert "±1.41 x2" in printed(board)
    assert "*: of the seeds that early stopping left" in " ".join(printed(board).split())


@pytest.mark.parametrize("num_columns", [30, 60, 80, 120, 200])
@pytest.mark.parametrize("num_rows", [6, 12, 24, 50])
def test_it_fits_any_terminal_and_always_says_how_the_sweep_stands(
    clock: Clock, num_columns: int, num_rows: int
) -> None:
    lines = shown(every_state(clock), num_columns, num_rows)
    assert len(lines) < num_rows
    assert max(map(len, lines)) <= num_columns
    assert any(line.startswith("32 of 120 trials done") for line in lines)
    assert any(line.startswith("GPUs in use: 4 of 8") for line in lines)


def test_in_24_lines_of_80_there_is_room_for_the_last_events(clock: Clock) -> None:
    board = every_state(clock)
    for trial in candidates_of(CELLS[6]):
        board.started(trial.trial_id)  # four rows of two lines would fill the screen
    lines = shown(board, 80, 24)
    assert "6 run" in "\n".join(lines) or "4 run" in "\n".join(lines)
    assert re.fullmatch(r"\d\d:\d\d:\d\d ViT-.*started", lines[-1])


def test_where_no_table_fits_cells_that_run_come_first_in_a_list(clock: Clock) -> None:
    lines = shown(every_state(clock), 60, 12)
    assert lines[0] == "ViT-B_16 cifar10 d0: 2 run 97.1, starting, 2 waiting"
    assert lines[2].startswith("R50+ViT-B_16 cifar10 d0: ")


def test_hours_spent_and_to_come_are_those_of_the_steps(clock: Clock) -> None:
    cell = CELLS[0]
    board = new_board(clock, [cell])
    board.connected(2, on_gpus=True)
    first, second, *_ = (trial.trial_id for trial in candidates_of(cell))
    assert board.standing().hours_to_come is None
    board.started(first)
    board.started(second)
    clock.now += 3 * HOUR  # an hour to begin, and two of steps
    board.reported(first, row(5000, 0.5, 2.0, clock.now))
    board.reported(second, row(2500, 0.5, 1.0, clock.now))
    standing = board.standing()
    assert standing.spent_hours == 6
    assert standing.hours_to_come == pytest.approx(2 + 3 + 4 + 4)  # 4 hours for each of four
    assert standing.seconds_left == pytest.approx(13 / 2 * HOUR)
    clock.now += HOUR
    standing = board.standing()
    assert standing.spent_hours == 8
    assert standing.hours_to_come == pytest.approx(11)
    board.reported(first, row(2500, 0.5, 1.0, clock.now))  # gone back to a checkpoint: an hour is lost
    board.ended(second, STOPPED)
    standing = board.standing()
    assert standing.spent_hours == 8
    assert standing.hours_to_come == pytest.approx(3 + 4 + 4)
    assert standing.num_slots_in_use == 1
    assert [each.seconds_left(clock.now) for each in standing.running] == [pytest.approx(3 * HOUR)]


def test_a_trial_from_an_earlier_session_waits_where_its_checkpoint_is(clock: Clock) -> None:
    cell = CELLS[0]
    board = SweepDisplay([cell], 1, console=Console(file=io.StringIO()), clock=clock)
    attempts = [{"time": START - 50, "attempt": number, "from_step": step} for number, step in ((1, 0), (2, 5200))]
    journal = [attempts[0], row(5200, 0.9, 2.0), row(6000, 0.91, 2.5), attempts[1]]
    board.add(candidates_of(cell)[0], lines=journal)
    assert "waiting 5.2k" in lines_of(cell.model, shown(board, 120))
    assert board.standing().spent_hours == 2.5


@pytest.mark.parametrize("num_columns", [60, 80, 120, 200])
def test_the_last_table_fits_and_says_each_cell_s_accuracy_difference_verdict_and_time(
    clock: Clock, tmp_path: Path, num_columns: int
) -> None:
    board = new_board(clock)
    board.console = Console(file=io.StringIO(), width=num_columns)
    for cell in CELLS:
        figure = published_for(cell)
        assert figure is not None
        trial = Trial(cell, figure.base_lr or 0.03, 0)
        result = finished(figure.accuracy + 0.0001)
        write_run(tmp_path, trial.config, [(cell.schedule.total_steps, 0.9)], result, hours=7.0)
        board.ended(trial.trial_id, result)
    board.console.print(board.table(gather(Storage(tmp_path)).cells))
    text = printed(board)
    assert max(map(len, text.splitlines())) <= num_columns
    assert "…" not in text
    for said in (r"9\d\.\d\d|8\d\.\d\d", r"✓ \+0\.01|\? \+0\.01", r"lr0\.\d", r"\b7h00"):
        assert len(re.findall(said, text)) == len(CELLS), said
    legend = " ".join(text.split()).rpartition("test accuracy, %")[2]
    assert legend.startswith(
        "; difference to published; chosen candidate; time of one run of it; ★: the best of its column; ✓ reproduced"
    )


# Without a terminal.


def test_without_a_terminal_there_is_a_line_per_event(clock: Clock) -> None:
    cell = CELLS[0]
    board = new_board(clock, [cell])
    first, second, *_ = (trial.trial_id for trial in candidates_of(cell))
    board.ended(second, finished(0.99))  # in an earlier session
    with board:
        board.started(first)
        board.noted(first, "its process died [signal SIGKILL]")
        board.reported(first, row(2500, 0.5, 1.0))
        board.ended(first, STOPPED)
    assert printed(board).splitlines() == [
        f"{first}: its process died [signal SIGKILL]",
        f"[2/4] {first}: stopped ({STOPPED['cause']}); about 4:00:00 left",
    ]


def test_a_log_says_now_and_then_how_the_sweep_stands(clock: Clock) -> None:
    board = new_board(clock, [CELLS[0]])
    (first, *_) = (trial.trial_id for trial in candidates_of(CELLS[0]))
    board.started(first)
    board.reported(first, row(2500, 0.5, 1.0))
    assert printed(board) == ""
    clock.now += SECONDS_BETWEEN_SUMMARIES
    board.reported(first, row(5000, 0.5, 2.0, clock.now))
    board.reported(first, row(5001, 0.5, 2.0, clock.now))
    (line,) = printed(board).splitlines()
    assert line.startswith("0 of 4 trials done, 1 running; about ")
    assert "GPUs in use: 1 of 8; GPU-hours: 0.167 spent, about 14 to come" in line
    times = []
    for minute in range(60):
        clock.now += 60
        board.reported(first, row(5002 + minute, 0.5, 2.0, clock.now))
        times += [minute + 1] * (len(printed(board).splitlines()) > len(times) + 1)
    assert times == [2, 6, 14, 24, 34, 44, 54], "soon, then every ten minutes"


def test_quiet_shows_nothing_until_the_table(clock: Clock) -> None:
    board = new_board(clock, [CELLS[0]], is_quiet=True)
    (first, *_) = (trial.trial_id for trial in candidates_of(CELLS[0]))
    with board:
        board.started(first)
        board.noted(first, "a note")
        board.ended(first, finished(0.9876))
    assert printed(board) == ""
    board.console.print(board.table())
    assert "98.76" in printed(board)


@pytest.mark.parametrize(("ci", "interactive"), [(None, True), ("", True), ("false", True), ("true", False)])
def test_a_terminal_in_ci_is_none(monkeypatch: pytest.MonkeyPatch, ci: str | None, interactive: bool) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("CI", raising=False)
    if ci is not None:
        monkeypatch.setenv("CI", ci)
    master, slave = os.openpty()
    with os.fdopen(slave, "w") as file:
        assert is_interactive(Console(file=file)) == interactive
    os.close(master)


def test_colours_that_are_forced_into_a_file_make_it_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert Console(file=io.StringIO()).is_terminal
    assert not is_interactive(Console(file=io.StringIO()))


def test_a_trial_that_starts_again_and_a_sweep_that_ends_show_no_time_that_runs_down(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    board = new_board(clock)
    trial_id = candidates_of(CELLS[0])[0].trial_id

    def left() -> float | None:
        (progress,) = board.standing().running
        return progress.seconds_left(board.standing().now)

    board.started(trial_id)
    clock.now += 60
    board.stepped(trial_id)
    board.reported(trial_id, row(5000, 0.5, 1.0, clock.now))
    clock.now += 600
    assert left() == HOUR - 600
    board.starts_again(trial_id)
    assert left() is None
    clock.now += 60
    board.stepped(trial_id)
    clock.now += 10
    assert left() == HOUR - 10  # what was not kept runs again
    board.ends()
    clock.now += 20
    assert left() == HOUR - 10
    assert "running; keeping states, at most 30 s; Ctrl-C again" in summary_lines(board.standing())[0]
    assert capsys.readouterr().err == "keeping states, at most 30 s; Ctrl-C again to leave now\n"


def test_with_more_slots_a_trial_is_taken_to_be_as_much_faster_until_it_says(clock: Clock) -> None:
    board = new_board(clock)
    trial_id = candidates_of(CELLS[0])[0].trial_id
    total = CELLS[0].schedule.total_steps

    def left() -> float | None:
        (progress,) = board.standing().running
        return progress.seconds_of_rest

    board.started(trial_id)
    assert left() is None
    board.reported(trial_id, row(total // 4, 0.5, 4.0, clock.now))
    assert left() == pytest.approx(12 * HOUR)
    board.resized(trial_id, 4)
    assert left() == pytest.approx(3 * HOUR)
    board.reported(trial_id, row(total // 2, 0.5, 6.0, clock.now))
    assert left() == pytest.approx(4 * HOUR)


# In a terminal.

LIVE = """
import sys
from sweeps.display.sweep_display import SweepDisplay
from sweeps.options import SweepOptions
from sweeps.planning.candidates import candidates
from sweeps.records.results import gather
from sweeps.table.cells import PAPER, cells_of

cells = cells_of(PAPER)
trials = candidates(SweepOptions(preset="paper"), cells)
board = SweepDisplay(cells, len(trials))
for trial in trials:
    board.add(trial)
with board:
    board.started(trials[0].trial_id)
    for line in sys.stdin:
        print("printed:", line.strip())
        board.noted(trials[0].trial_id, line.strip())
        if line == "end\\n":
            board.ends()
print("after the table")
"""


@pytest.fixture
def start_live() -> Iterator[Callable[..., Terminal]]:
    """Starts a board in a terminal: each line typed there is printed and becomes an event; Ctrl-D ends it."""
    terminals: list[Terminal] = []

    def start(num_columns: int, num_rows: int, **environment: str) -> Terminal:
        environment |= {"PYTHONPATH": str(ROOT)}
        terminals.append(Terminal([sys.executable, "-c", LIVE], num_columns, num_rows, **environment))
        return terminals[-1]

    yield start
    for terminal in terminals:
        terminal.close()


def num_tables(text: str) -> int:
    return len(re.findall(r"^model +d", text, re.MULTILINE))


@pytest.mark.slow
def test_a_live_table_survives_resizing(start_live: Callable[..., Terminal]) -> None:
    terminal = start_live(120, 40)
    terminal.wait_for(lambda text: re.search(r" 0\.001 +0/\d+k +starting", text) is not None and ": started" in text)
    for num_columns, num_rows, content, count in (
        (80, 24, "drop 0.1", 3),
        (200, 50, " 0.001 ", 1),
        (50, 24, "29 cells waiting", 1),
        (120, 40, " 0.001 ", 1),
    ):
        terminal.resize(num_columns, num_rows)
        text = terminal.wait_for(
            lambda text, content=content, count=count: text.count(content) == count and "-cifar10-d0-lr0.001" in text,
            20,
        )
        assert max(map(len, text.splitlines())) <= num_columns
        assert len(re.findall(r"^R50\+ViT-B_16 (?!cifar10 d0 )", text, re.M)) == text.count("0 of 120 trials done") == 1
    assert terminal.process.poll() is None


def test_what_others_print_stays_above_the_table(start_live: Callable[..., Terminal]) -> None:
    terminal = start_live(120, 40)
    terminal.wait_for(lambda text: "1 running" in text)
    terminal.type("hello\n")
    text = terminal.wait_for(lambda text: "printed: hello" in text and ": hello" in text.partition("GPUs")[2] + text)
    assert text.index("printed: hello") < text.index("R50+ViT-B_16")
    terminal.type("end\n")
    terminal.wait_for(lambda text: "1 running; keeping states, at most 30 s; Ctrl-C again to leave now" in text)
    terminal.type("\x04")
    code, text = terminal.end()
    assert code == 0
    assert len(re.findall(r"^R50\+ViT-B_16 (?!cifar10 d0 )", text, re.M)) == 1  # as it stood when it ended early
    assert text.rstrip().endswith("after the table")


def test_in_ci_a_terminal_gets_plain_lines(start_live: Callable[..., Terminal]) -> None:
    terminal = start_live(120, 40, CI="true")
    terminal.type("hello\n\x04")
    _, text = terminal.end()
    assert "-s0-" in text
    assert ": hello" in text
    assert num_tables(text) == 0


# The cell of a config.


@pytest.mark.parametrize("cell", [CELLS[0], CELLS[-1]], ids=lambda cell: cell.model)
def test_a_config_tells_its_cell(cell: Cell) -> None:
    assert cell_of(candidates_of(cell)[0].config.to_dict()) == cell


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "ViT-B16"}, "unknown model 'ViT-B16'; did you mean 'ViT-B_16'?"),
        ({"total_steps": "many"}, "this is no trial's config"),
        ({"total_steps": 0}, "total_steps 0 is below 1"),
    ],
)
def test_what_is_no_config_of_a_trial_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        cell_of(candidates_of(CELLS[0])[0].config.to_dict() | change)
    with pytest.raises(InputError, match="this is no trial's config"):
        cell_of({"some": "thing"})


@pytest.mark.parametrize(
    ("num_columns", "labels"),
    [
        (140, ("R50+ViT-B_16, 384 px, from imagenet21k ", "R50+ViT-B_16, 224 px, from imagenet21k+imagenet2012 ")),
        (52, ("R50+ViT-B_16", " 384 px, from imagenet21k ", " 224 px, from imagenet21k+imagenet2012 ")),
        (42, ("R50+ViT-B_16 384px 21k ", "R50+ViT-B_16 224px 21k+2012 ")),
    ],
)
def test_cells_that_differ_in_more_have_rows_of_their_own(
    clock: Clock, num_columns: int, labels: tuple[str, ...]
) -> None:
    cell = CELLS[0]
    other = replace(cell, resolution=224, upstream="imagenet21k+imagenet2012")
    board = SweepDisplay([cell, other], 2, console=Console(file=io.StringIO()), clock=clock)
    board.add(Trial(cell, 0.01, 0))
    board.add(Trial(other, 0.01, 0))
    lines = shown(board, num_columns)
    assert not [label for label in labels if not any(line.startswith(label) for line in lines)]


def test_the_last_table_has_them_too(clock: Clock) -> None:
    cells = [replace(CELLS[0], schedule=Schedule(500, warmup)) for warmup in (50, 100)]
    board = SweepDisplay(cells, 2, console=Console(file=io.StringIO(), width=200), clock=clock)
    for cell, accuracy in zip(cells, (0.91, 0.92), strict=True):
        trial = Trial(cell, 0.01, 0)
        board.add(trial)
        board.ended(trial.trial_id, finished(accuracy))
    board.console.print(board.table())
    rows = [" ".join(line.split()) for line in printed(board).splitlines() if "warm-up" in line]
    assert rows == ["R50+ViT-B_16, warm-up 50 91.00 lr0.01", "R50+ViT-B_16, warm-up 100 92.00★ lr0.01"]


def test_what_a_stranger_has_named_moves_no_cursor(clock: Clock) -> None:
    """Of escapes a terminal gets those of rich alone."""
    hostile = "a\x1b[2J\x07\nb"
    (cell,) = cells_of(PAPER)[:1]
    cell = replace(cell, dataset=hostile)
    file = io.StringIO()
    console = Console(file=file, width=200, force_terminal=True, color_system=None)
    board = SweepDisplay([cell], 1, console=console, clock=clock)
    standing = replace(board.standing(), complaints=(hostile, "s3://KEY:t0KeN@bucket"))
    console.print(Screen(standing))
    assert not re.findall("[\x00-\x09\x0b-\x1f]|t0KeN", file.getvalue())
    assert "a\\x1b[2J\\x07\\nb" in file.getvalue()
