"""Claims about how a session is sampled, by a clock that ticks as told."""

from bench.sampling import Schedule, sample


class Clock:
    """Shows the time that the calls made so far have taken."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def sampled(durations_s, schedule):
    clock, calls = Clock(), []

    def call():
        duration_s = durations_s(len(calls))
        calls.append(duration_s)
        clock.now_s += duration_s

    return sample(call, schedule, clock), calls


def test_each_sample_is_the_duration_of_one_call_after_the_warm_up():
    schedule = Schedule(warmup_s=0.0, warmup_calls=3, sampling_s=0.0, least_rounds=4)
    samples, calls = sampled(lambda n: 2.0**-n, schedule)
    assert samples == calls[3:] == [2.0**-n for n in range(3, 7)]


def test_sampling_lasts_until_its_time_is_over_and_its_least_rounds_are_done():
    fast, _ = sampled(lambda n: 0.25, Schedule(sampling_s=10.0, least_rounds=5))
    slow, _ = sampled(lambda n: 0.25, Schedule(sampling_s=0.5, least_rounds=5))
    assert (len(fast), len(slow)) == (40, 5)


def test_sampling_never_makes_more_than_its_most_rounds():
    samples, _ = sampled(lambda n: 0.0, Schedule(warmup_s=0.0, most_rounds=17))
    assert len(samples) == 17


def test_a_model_of_seconds_a_call_does_not_outlast_the_patience():
    samples, calls = sampled(lambda n: 8.0, Schedule(patience_s=20.0))
    assert len(samples) == 3
    assert len(calls) - len(samples) == 2
