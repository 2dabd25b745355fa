"""Claims about how sessions are timed and sampled in turn, by a clock that ticks as told."""

import pytest

from bench.sampling import KEPT, QUICK, Launch, Plan, Slice, call_overhead_s, paired, timed, warmed


class Clock:
    """Shows the time that the calls made so far have taken."""

    def __init__(self):
        self.now_s = 0.0
        self.calls = []

    def __call__(self):
        return self.now_s

    def calling(self, duration_s):
        def call():
            taken_s = duration_s(len(self.calls)) if callable(duration_s) else duration_s
            self.calls.append(taken_s)
            self.now_s += taken_s

        return call


class Side:
    """A session whose calls take what it is told, and that notes when it had its turn."""

    def __init__(self, name, clock, turns, call_s):
        self.name, self.clock, self.turns, self.call_s = name, clock, turns, call_s

    def take(self, seconds):
        self.turns.append(self.name)
        self.clock.now_s += seconds
        call_s = self.call_s(self.clock.now_s)
        return Slice(call_s, [call_s], int(seconds / call_s))


def test_the_sides_take_turns_and_the_order_alternates():
    clock, turns = Clock(), []
    case, baseline = (Side(name, clock, turns, lambda now: 0.001) for name in "cb")
    launch = Launch()
    paired(launch, case, baseline, 3.5, 0.5, clock)
    assert "".join(turns) == "cbbccbbc"
    assert launch.case_s == launch.baseline_s == [0.001] * 4
    assert launch.calls == 4 * 500


def test_each_pass_adds_an_even_number_of_rounds_for_its_time():
    clock, turns, launch = Clock(), [], Launch()
    case, baseline = (Side(name, clock, turns, lambda now: 0.001) for name in "cb")
    counts = []
    for _ in range(3):
        paired(launch, case, baseline, 4.5, 0.5, clock)
        counts.append(len(launch.case_s))
    assert counts == [6, 12, 18]
    assert turns.count("c") == turns.count("b") == 18


def test_a_machine_that_slows_down_steadily_leaves_the_ratio_alone():
    from bench.statistics import launch_ratio

    clock, turns = Clock(), []
    case = Side("c", clock, turns, lambda now: 0.001 * (1 + now / 100))
    baseline = Side("b", clock, turns, lambda now: 0.003 * (1 + now / 100))
    launch = Launch()
    paired(launch, case, baseline, 10.0, 0.04, clock)
    assert launch.case_s[-1] > 1.08 * launch.case_s[0]
    assert launch_ratio(launch.case_s, launch.baseline_s) == pytest.approx(3.0, rel=1e-3)


def test_without_a_baseline_the_case_is_sampled_alone():
    clock, turns = Clock(), []
    launch = Launch()
    paired(launch, Side("c", clock, turns, lambda now: 0.001), None, 1.0, 0.04, clock)
    assert set(turns) == {"c"}
    assert launch.baseline_s == []


def test_a_slice_times_single_calls_after_an_eighth_of_warming():
    clock = Clock()
    taken = timed(clock.calling(2.0**-6), 1.0, 2.0**-6, clock)
    assert taken.median_s == 2.0**-6
    assert taken.calls == 64
    assert len(clock.calls) == 64 + 8
    assert len(taken.samples_s) == KEPT


def test_a_call_longer_than_its_slice_is_made_once():
    clock = Clock()
    taken = timed(clock.calling(8.0), 1.0, 8.0, clock)
    assert (taken.calls, len(clock.calls)) == (1, 1)


def test_calls_too_short_for_the_clock_are_made_several_a_sample():
    clock = Clock()
    taken = timed(clock.calling(2.0**-20), 1e-3, 2.0**-20, clock)
    assert taken.median_s == 2.0**-20
    assert taken.calls % 21 == 0  # 21 x 0.954 us are the first to last 20 us


def test_the_steady_state_is_found_not_assumed():
    clock = Clock()
    found = warmed(clock.calling(lambda n: 2.0**-7 if n > 100 else 0.05 - 0.0004 * n), longest_s=5.0, clock=clock)
    assert found["steady"]
    assert found["calls"] > 100
    assert found["typical_s"] == 2.0**-7


def test_what_never_gets_steady_is_given_up_and_said():
    clock = Clock()
    found = warmed(clock.calling(lambda n: 0.01 * 1.05**n), longest_s=2.0, clock=clock)
    assert not found["steady"]
    slow = Clock()
    assert not warmed(slow.calling(8.0), clock=slow)["steady"]
    assert len(slow.calls) == 3


def test_passes_go_on_until_the_interval_is_narrow_or_the_budget_spent():
    plan = Plan(interval=0.005, budget_s=20.0, least_passes=2)
    assert not plan.enough(1, 99, 0.001, 99.0)
    assert plan.enough(2, 99, 0.005, 1.0)
    assert not plan.enough(2, 99, 0.006, 1.0)
    assert not plan.enough(9, 99, None, 19.0)
    assert plan.enough(2, 99, None, 20.0)


def test_a_larger_budget_makes_longer_passes_of_what_was_started():
    assert [Plan.within(budget_s).pass_s for budget_s in (4.0, 10.0, 20.0, 100.0)] == [0.4, 0.4, 0.8, 4.0]
    assert Plan.within(20.0, 0.01) == Plan(interval=0.01, pass_s=0.8)


def test_one_launch_ends_after_its_least_passes():
    assert not QUICK.enough(1, 6, None, 0.0)
    assert QUICK.enough(2, 6, None, 0.0)


def test_slow_calls_are_made_often_enough_for_a_median_for_up_to_three_budgets():
    from bench.statistics import supported

    assert supported(50, QUICK.least_samples)
    assert not QUICK.enough(2, QUICK.least_samples - 1, None, 59.0)
    assert QUICK.enough(2, QUICK.least_samples - 1, None, 60.0)
    assert QUICK.enough(2, QUICK.least_samples, None, 1.0)


def test_timing_a_call_costs_under_a_microsecond_by_its_own_account():
    assert 0 < call_overhead_s() < 1e-4  # speed is not asserted here; a figure in another unit would be
