"""Claims about the order in which a case's sessions and its baseline's are opened."""

from bench import Case
from bench.timing.baseline import Baseline
from bench.timing.pairs import Pairs, in_turn
from bench.timing.protocol import Usage
from bench.timing.sampling import Launch
from bench.timing.settings import Bench


class Session:
    """Notes when it is opened."""

    def __init__(self, name, order):
        self.name, self.order, self.is_open = name, order, False

    def open(self):
        self.order.append(self.name)
        self.is_open = True

    def ask(self, question):
        return Usage()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass


class Shared:
    """The baseline's sessions, `there` of which another case has opened."""

    def __init__(self, order, there=0):
        self.order, self.made = order, [Session(f"b{place}", order) for place in range(there)]
        for session in self.made:
            session.is_open = True

    def has(self, count):
        return count <= len(self.made)

    def sessions(self, case, count):
        self.made += [Session(f"b{place}", self.order) for place in range(len(self.made), count)]
        return [Baseline(self, session) for session in self.made[:count]]


def begun(monkeypatch, tmp_path, counts, there=0, baseline=True):
    order = []
    names = iter(range(99))
    monkeypatch.setattr("bench.timing.pairs.WorkerSession", lambda *_: Session(f"c{next(names)}", order))
    monkeypatch.setattr("bench.timing.pairs.open_all", lambda sessions: [session.open() for session in sessions])
    case = Case("resnet20", "fp32", "torch")
    pairs = Pairs(case, Bench(tmp_path), None, case if baseline else None, Shared(order, there))
    for count in counts:
        pairs.begin(count)
    return pairs, order


def test_a_launchs_sessions_are_opened_together_and_neither_side_first(monkeypatch, tmp_path):
    pairs, order = begun(monkeypatch, tmp_path, [1, 2, 2])
    assert order == ["c0", "b0", "b1", "c1", "c2", "b2", "b3", "c3", "c4", "b4"]
    assert [side.session.name for side in pairs.others] == ["b0", "b1", "b2", "b3", "b4"]
    assert pairs.launches == [Launch()] * 5


def test_what_another_case_has_opened_of_the_baseline_stays_open(monkeypatch, tmp_path):
    _, order = begun(monkeypatch, tmp_path, [1, 2, 1], there=2)
    assert order == ["c0", "c1", "c2", "b2", "b3", "c3"]


def test_a_single_launch_has_its_baseline(monkeypatch, tmp_path):
    pairs, order = begun(monkeypatch, tmp_path, [1, 0, 0])
    assert order == ["c0", "b0"]
    assert len(pairs.others) == 1


def test_without_a_baseline_the_case_alone_is_opened(monkeypatch, tmp_path):
    pairs, order = begun(monkeypatch, tmp_path, [1, 2], baseline=False)
    assert order == ["c0", "c1", "c2"]
    assert pairs.others == []


def test_another_launch_costs_a_session_more_where_the_baseline_has_none_for_it(monkeypatch, tmp_path):
    alone, _ = begun(monkeypatch, tmp_path, [1, 2], there=4)
    both, _ = begun(monkeypatch, tmp_path, [1, 2])
    assert alone.start_s() == alone._each_s > 0
    assert both.start_s() == 2 * both._each_s > 0


def test_nothing_to_open_is_an_order_of_nothing():
    assert in_turn([], []) == []
