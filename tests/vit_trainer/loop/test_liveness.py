"""How soon a loop promises to be heard of again."""

import pytest

from vit_trainer.loop import liveness
from vit_trainer.loop.liveness import START_SECONDS, Pace, announce_in, expect_as_before


class Clock:
    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_what_is_compiled_may_take_long_and_then_twenty_usual_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, place = Clock(), memoryview(bytearray(16)).cast("d")
    monkeypatch.setattr(liveness, "time", clock)
    monkeypatch.setattr(liveness, "_places", [])
    announce_in(place)

    def allowed() -> float:
        return place[0] - clock.now

    def steps(*seconds: float) -> None:
        for each in seconds:
            clock.now += each
            pace.step_ends()

    assert allowed() == START_SECONDS
    pace = Pace(480.0)
    steps(900.0, 100.0)  # compiled
    assert allowed() == START_SECONDS
    steps(1.0, 3.0)
    assert allowed() == 480.0
    pace.row_begins()
    assert allowed() == START_SECONDS  # the first evaluation is compiled too
    clock.now += 600.0
    pace.alive()
    assert allowed() == START_SECONDS
    pace.row_ends(validated=True)
    assert allowed() == 480.0
    pace.row_begins()
    assert allowed() == 480.0
    for _ in range(100):  # a word that takes long is no step
        clock.now += 100.0
        expect_as_before()
    assert allowed() == 480.0
    pace.row_ends(validated=True)
    steps(98.0, 98.0)
    assert allowed() == 20 * 50.0
    pace.begin()  # with a smaller micro-batch
    assert allowed() == START_SECONDS
