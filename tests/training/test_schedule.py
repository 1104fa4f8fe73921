"""Learning rates: the formulas, and how they fit themselves to the time that is given."""

import math

import pytest

from qkv.config.schema import TrainingConfig
from qkv.training.schedule import Schedule

STEPS = [1, 10, 500, 3999, 4000, 4001, 20_000, 100_000]


@pytest.mark.parametrize("step", STEPS)
def test_paper_is_equation_3(step):
    schedule = Schedule("paper", peak=123.0, warmup_steps=4000, d_model=512)
    assert schedule.learning_rate(step, 0.0) == pytest.approx(512**-0.5 * min(step**-0.5, step * 4000**-1.5))


@pytest.mark.parametrize("step", STEPS)
def test_inverse_sqrt_has_the_papers_form_and_its_own_peak(step):
    paper = Schedule("paper", peak=1.0, warmup_steps=4000, d_model=512)
    own = Schedule("inverse_sqrt", peak=0.02, warmup_steps=4000)
    scale = paper.learning_rate(4000, 0.0) / 0.02
    assert own.learning_rate(step, 0.3) * scale == pytest.approx(paper.learning_rate(step, 0.3))


def test_all_rise_linearly_to_their_peak():
    for kind in ("inverse_sqrt", "constant", "cosine"):
        schedule = Schedule(kind, peak=0.5, warmup_steps=10)
        assert [schedule.learning_rate(step, 0.0) for step in (1, 5, 10)] == pytest.approx([0.05, 0.25, 0.5])


def test_constant_stays():
    schedule = Schedule("constant", peak=0.5, warmup_steps=0)
    assert {schedule.learning_rate(step, share) for step in (1, 1000) for share in (0.0, 0.5, 1.0)} == {0.5}


@pytest.mark.parametrize(("share", "factor"), [(0.0, 1.0), (1 / 3, 0.75), (0.5, 0.5), (1.0, 0.0)])
def test_cosine_falls_along_half_a_cosine(share, factor):
    schedule = Schedule("cosine", peak=2.0, warmup_steps=1)
    assert schedule.learning_rate(1000, share) == pytest.approx(2.0 * factor, abs=1e-12)


@pytest.mark.parametrize("kind", ["paper", "inverse_sqrt", "constant", "cosine"])
def test_cooldown_ends_at_zero_and_touches_nothing_before(kind):
    plain = Schedule(kind, peak=1.0, warmup_steps=10)
    cooled = Schedule(kind, peak=1.0, warmup_steps=10, cooldown=0.2)
    assert cooled.learning_rate(50, 0.8) == pytest.approx(plain.learning_rate(50, 0.8))
    assert cooled.learning_rate(50, 0.9) == pytest.approx(plain.learning_rate(50, 0.9) / 2)
    assert cooled.learning_rate(50, 1.0) == 0.0


@pytest.mark.parametrize("kind", ["paper", "inverse_sqrt", "constant"])
def test_under_a_budget_warm_up_takes_a_tenth_of_it_at_most(kind):
    """Nobody knows how many steps fit into fifteen minutes; a warm-up made for a day must not fill them."""
    timed = Schedule(kind, peak=1.0, warmup_steps=100_000, timed=True)
    untimed = Schedule(kind, peak=1.0, warmup_steps=100_000)
    top = untimed.learning_rate(100_000, 0.0)
    assert timed.learning_rate(20, 0.05) == pytest.approx(top / 2)
    assert timed.learning_rate(40, 0.1) == pytest.approx(top)
    assert timed.learning_rate(80, 0.2) == pytest.approx(top)
    assert untimed.learning_rate(40, 0.1) < top / 1000


def test_a_short_warm_up_is_left_alone_under_a_budget():
    timed, untimed = (Schedule("inverse_sqrt", 1.0, warmup_steps=10, timed=timed) for timed in (True, False))
    for step, share in ((1, 0.001), (10, 0.01), (1000, 0.9)):
        assert timed.learning_rate(step, share) == untimed.learning_rate(step, share)


@pytest.mark.parametrize(
    ("said", "cooldown"),
    [
        ({"budget": 60}, 0.3),
        ({"budget": 60, "schedule": "cosine"}, 0.0),  # reaches zero by itself
        ({"budget": 60, "cooldown": 0.1}, 0.1),
        ({"steps": 60}, 0.0),
        ({"steps": 60, "cooldown": 0.1}, 0.1),
    ],
)
def test_what_a_recipe_says(said, cooldown):
    schedule = Schedule.of(TrainingConfig(learning_rate=0.25, warmup_steps=7, **said), d_model=64)
    assert schedule == Schedule(
        said.get("schedule", "inverse_sqrt"), 0.25, 7, 64, cooldown=cooldown, timed="budget" in said
    )


def test_no_schedule_is_ever_negative_or_infinite():
    for kind in ("paper", "inverse_sqrt", "constant", "cosine"):
        for warmup in (0, 1, 1000):
            schedule = Schedule(kind, 1.0, warmup, cooldown=0.3, timed=True)
            rates = [schedule.learning_rate(step, step / 100) for step in range(1, 150)]
            assert all(math.isfinite(rate) and rate >= 0.0 for rate in rates)
