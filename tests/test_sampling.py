"""Claims about how sessions are timed and sampled in turn, by a clock that ticks as told."""

import math

import numpy as np
import pytest
import scipy.stats

from bench.selftest.coverage import covered
from bench.statistics import launch_deviation, speedup_interval, student
from bench.timing.sampling import KEPT, QUICK, Launch, Plan, Slice, Timer, call_overhead_s, paired, two_stages, warmed


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
    taken = Timer(2.0**-6, clock).slice(clock.calling(2.0**-6), 1.0)
    assert taken.median_s == 2.0**-6
    assert taken.calls == 64
    assert len(clock.calls) == 64 + 8
    assert len(taken.samples_s) == KEPT


def test_a_call_longer_than_its_slice_is_made_once():
    clock = Clock()
    taken = Timer(8.0, clock).slice(clock.calling(8.0), 1.0)
    assert (taken.calls, len(clock.calls)) == (1, 1)


def test_calls_too_short_for_the_clock_are_made_several_a_sample():
    clock = Clock()
    timer = Timer(2.0**-20, clock)
    taken = timer.slice(clock.calling(2.0**-20), 1e-3)
    assert taken.median_s == 2.0**-20
    assert timer.together == 21  # 21 x 0.954 us are the first to last 20 us
    assert taken.calls % 21 == 0


def test_a_call_that_the_clock_does_not_see_is_made_so_often_that_it_does():
    clock = Clock()
    timer = Timer(0.0, clock)
    assert 1 < timer.together < 10**6
    assert timer.slice(clock.calling(2.0**-40), 1e-6).median_s == pytest.approx(2.0**-40)


def test_energy_is_read_around_the_calls_that_are_counted_and_no_others():
    clock = Clock()
    taken = Timer(2.0**-6, clock, meter=lambda: 8.0 * clock.now_s).slice(clock.calling(2.0**-6), 1.0)
    assert taken.energy_j / taken.calls == 8.0 * 2.0**-6  # 8 W; the eighth of warming would make it 9
    assert Timer(2.0**-6, clock).slice(clock.calling(2.0**-6), 1.0).energy_j is None


def test_slow_slices_have_no_more_weight_in_the_samples_than_they_have_calls():
    clock = Clock()
    timer = Timer(2.0**-10, clock)
    fast = [timer.slice(clock.calling(2.0**-10), 1.0) for _ in range(8)]
    slow = [timer.slice(clock.calling(2.0**-7), 1.0) for _ in range(8)]
    calls, samples = ([sum(of(one) for one in some) for some in (fast, slow)] for of in (_calls, _kept))
    assert calls == [8 * 1024, 8 * 128]
    assert samples == [8 * 32, 8 * 4]


def test_no_place_in_a_slice_is_kept_more_often_than_another():
    clock, places = Clock(), []
    timer = Timer(2.0**-7, clock)
    for _ in range(64):  # calls that take ever longer within a slice tell their place
        clock.calls.clear()
        taken = timer.slice(clock.calling(lambda n: 2.0**-7 + 2.0**-30 * n), 127 / 128)
        places += [round((sample_s - 2.0**-7) * 2**30) - 16 for sample_s in taken.samples_s]  # 16 warm it up
    counts = [places.count(place) for place in range(127)]
    assert set(counts) == {16}


def _calls(taken):
    return taken.calls


def _kept(taken):
    return len(taken.samples_s)


def test_the_steady_state_is_found_not_assumed():
    clock = Clock()
    found, typical_s = warmed(
        clock.calling(lambda n: 2.0**-7 if n > 100 else 0.05 - 0.0004 * n), longest_s=5.0, clock=clock
    )
    assert found.steady
    assert found.calls > 100
    assert typical_s == 2.0**-7


def test_what_never_gets_steady_is_given_up_and_said():
    clock = Clock()
    found, _ = warmed(clock.calling(lambda n: 0.01 * 1.05**n), longest_s=2.0, clock=clock)
    assert not found.steady
    slow = Clock()
    assert not warmed(slow.calling(8.0), clock=slow)[0].steady
    assert len(slow.calls) == 3


class Pairs:
    """Launches whose ratios are told beforehand, on a clock of their own; it notes what was sampled."""

    def __init__(self, logs, start_s=0.4, pass_s=0.8, room=99):
        self.logs, self.each_s, self.pass_s, self.most = logs, start_s, pass_s, room
        self.launches, self.starting_s, self.now_s, self.passes = [], 0.0, 0.0, []

    def begin(self, count):
        for _ in range(max(0, count)):
            self.launches.append(Launch())
            self.starting_s += self.each_s
            self.now_s += self.each_s

    def start_s(self):
        return self.each_s

    def room(self):
        return self.most

    def sample(self, since):
        for place in range(since, len(self.launches)):
            self.launches[place].case_s.append(1.0)
            self.launches[place].baseline_s.append(math.exp(self.logs[place]))
            self.launches[place].samples_s += [1.0] * 2
            self.now_s += self.pass_s
        self.passes.append((since, len(self.launches)))

    def clock(self):
        return self.now_s

    def ratios(self):
        return [(launch.case_s, launch.baseline_s) for launch in self.launches]


def spread(deviation):
    """Ten launches whose first six have exactly this standard deviation."""
    logs = np.array([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    return [*(deviation * logs / logs.std(ddof=1)), 0.0, 0.0, 0.0, 0.0]


PLAN = Plan.within(20.0)


def test_the_first_stage_decides_by_steins_rule_how_many_launches_there_are():
    for deviation, count in ((0.0047, 6), (0.0050, 7), (0.0054, 8), (0.05, 8)):
        pairs = Pairs(spread(deviation))
        assert two_stages(PLAN, pairs, True, pairs.clock) == 6
        needed = math.ceil((scipy.stats.t.ppf(0.975, 5) * deviation / math.asinh(0.005)) ** 2)
        assert len(pairs.launches) == count == min(8, max(6, needed))


def test_launches_of_both_stages_are_sampled_for_as_long():
    pairs = Pairs(spread(0.05))
    two_stages(PLAN, pairs, True, pairs.clock)
    assert pairs.passes == [(0, 6), (0, 6), (6, 8), (6, 8)]


def test_the_interval_keeps_the_deviation_of_the_first_stage():
    pairs = Pairs(spread(0.006))
    first = two_stages(PLAN, pairs, True, pairs.clock)
    found = speedup_interval(pairs.ratios(), first)
    half = scipy.stats.t.ppf(0.975, 5) * 0.006 / math.sqrt(8)
    assert (math.log(found.low), math.log(found.high)) == pytest.approx((-half, half))
    assert launch_deviation(pairs.ratios()) < 0.006
    assert student(6) == pytest.approx(scipy.stats.t.ppf(0.975, 5))


def test_what_ends_the_first_stage_is_time_never_how_well_launches_agree():
    ends = []
    for deviation in (0.0, 0.003, 0.3):
        pairs = Pairs(spread(deviation))
        two_stages(PLAN, pairs, True, pairs.clock)
        ends.append([one for one in pairs.passes if one[0] == 0])
    assert ends[0] == ends[1] == ends[2]


def test_the_budget_is_not_spent_twice_whatever_is_wanted():
    for start_s in (0.1, 0.4, 1.0, 3.0):
        for pass_s in (0.4, 0.8, 2.0):
            pairs = Pairs(spread(0.5), start_s, pass_s)
            first = two_stages(PLAN, pairs, True, pairs.clock)
            least_s = first * (start_s + 2 * pass_s)
            assert pairs.now_s <= max(PLAN.budget_s, least_s) + first * pass_s


def test_where_no_second_stage_can_follow_the_first_has_the_whole_budget():
    pairs = Pairs(spread(0.05), room=6)
    assert two_stages(PLAN, pairs, True, pairs.clock) == len(pairs.launches) == 6
    assert 20.0 <= pairs.now_s < 20.0 + 6 * 0.8
    alone = Pairs(spread(0.0))
    assert two_stages(PLAN, alone, False, alone.clock) == len(alone.launches) == 6
    assert alone.now_s >= 20.0


def test_engines_that_start_slowly_have_three_launches():
    pairs = Pairs(spread(0.05), start_s=4.0)
    assert two_stages(PLAN, pairs, True, pairs.clock) == len(pairs.launches) == 3


def test_memory_that_has_room_for_one_launch_has_one():
    pairs = Pairs(spread(0.05), room=1)
    assert two_stages(PLAN, pairs, True, pairs.clock) == len(pairs.launches) == 1


@pytest.mark.parametrize("deviation", [0.004, 0.008])
def test_intervals_hold_the_truth_as_often_as_they_say_whatever_the_deviation(deviation):
    repeats = 1000
    runs = covered(Plan.within(20.0), deviation, repeats, np.random.default_rng(0))
    hits = np.mean([hit for hit, *_ in runs])
    assert abs(hits - 0.95) < 4 * math.sqrt(0.95 * 0.05 / repeats)


def test_a_larger_budget_makes_longer_passes_of_what_was_started():
    assert [Plan.within(budget_s).pass_s for budget_s in (4.0, 10.0, 20.0, 100.0)] == [0.4, 0.4, 0.8, 4.0]
    assert Plan.within(20.0, 0.01) == Plan(interval=0.01, pass_s=0.8)


def test_one_launch_ends_after_its_least_passes():
    pairs = Pairs([0.0], pass_s=0.4)
    assert two_stages(QUICK, pairs, True, pairs.clock) == 1
    assert pairs.passes == [(0, 1)] * 3  # six samples, two a pass
    assert not QUICK.staged(1, 6, 0.0, True)
    assert QUICK.staged(2, 6, 0.0, True)


def test_slow_calls_are_made_often_enough_for_a_median_for_up_to_three_budgets():
    from bench.statistics import supported

    assert supported(50, QUICK.least_samples)
    assert not QUICK.staged(2, QUICK.least_samples - 1, 59.0, True)
    assert QUICK.staged(2, QUICK.least_samples - 1, 60.0, True)
    assert QUICK.staged(2, QUICK.least_samples, 1.0, True)


def test_timing_a_call_costs_under_a_microsecond_by_its_own_account():
    assert 0 < call_overhead_s() < 1e-4  # speed is not asserted here; a figure in another unit would be
