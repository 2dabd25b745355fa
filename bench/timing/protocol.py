"""What the harness asks a worker, and what it answers: typed messages, one line of JSON each.

A handshake comes first, once: the modules that a worker must import. Then questions, each with the type of its answer.
Whatever a session is about is told when it is opened, not with each slice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from bench.build.sensitivity import Layer
from bench.machine.interpreter import Interpreter
from bench.machine.probes import Peak
from bench.spec.case import Case
from bench.spec.metric import Metric
from bench.spec.outcome import Calibration, Explained, Figures, Judged, Kernel, Likeness, Lowered, Setting, Steady
from bench.spec.registry import Origin
from bench.statistics import Drop
from bench.timing.sampling import Slice

Answer = TypeVar("Answer")


class Question(Generic[Answer]):
    """What a worker is asked; `name` is its name in messages, `answer` the type of what it answers."""

    name: ClassVar[str]
    answer: ClassVar[Any]


@dataclass(frozen=True)
class Target:
    """What a question is about: a case, and the folders and limits that its network is built with."""

    case: Case
    cache: Path
    data: Path | None = None
    most_drop: float | None = None


@dataclass(frozen=True)
class Built:
    """The folders of what a session is opened on; `compiled` of what its engine compiles, where it keeps that."""

    artifact: Path
    reference: Path
    compiled: Path | None = None


@dataclass(frozen=True)
class Hello:
    """The handshake: the modules to import, so as to know the same models, engines and data."""

    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class Refer(Question[Path]):
    """Make what is missing of weights and reference outputs; the folder of these."""

    name = "refer"
    answer = Path
    target: Target


@dataclass(frozen=True)
class Build(Question[Built]):
    """Make what is missing of weights, reference outputs and the case's artefact."""

    name = "build"
    answer = Built
    target: Target


@dataclass(frozen=True)
class Rank(Question[tuple[Layer, ...]]):
    """Rank the layers by what each costs alone in the case's precision, the one that costs most first."""

    name = "rank"
    answer = tuple[Layer, ...]
    target: Target


@dataclass(frozen=True)
class Opened:
    """A session that was opened.

    load_s            includes the import of the engine.
    calls_per_sample  how many calls are timed together.
    left              the layers that stayed in FP32 to keep to a most drop, left_by  what they were chosen by.
    """

    load_s: float
    first_call_s: float
    steady: Steady
    calls_per_sample: int
    versions: dict[str, str]
    pool: dict[str, Setting]
    call_overhead_s: float
    writes_input: bool
    left: tuple[str, ...] = ()
    left_by: str | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True)
class Open(Question[Opened]):
    """Load the artefact, make the first call, and call on until it is steady, bound to these CPUs, None for none."""

    name = "open"
    answer = Opened
    target: Target
    built: Built
    cores: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TakeSlice(Question[Slice]):
    """Call for so many seconds."""

    name = "slice"
    answer = Slice
    seconds: float


@dataclass(frozen=True)
class Usage:
    """What a process has used: CPU seconds of each thread, switches that it did not ask for, its peak memory."""

    threads_s: dict[str, float] = field(default_factory=dict)
    involuntary_switches: int | None = None
    peak_rss_bytes: int | None = None


@dataclass(frozen=True)
class AskUsage(Question[Usage]):
    """Tell what the process has used."""

    name = "usage"
    answer = Usage


@dataclass(frozen=True)
class Judgement:
    """What a session's answers to the whole test split are worth; see bench.records.record.

    outputs  how the raw outputs are like FP32's.
    """

    quality: Figures
    judged: Judged
    metrics: dict[str, Metric]
    fidelity: Figures
    drop: dict[str, Drop]
    answers: str
    outputs: Likeness
    macs_per_item: int
    pictures: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Evaluate(Question[Judgement]):
    """Judge the session on the whole test split; write strips of pictures to a folder, None for none."""

    name = "evaluate"
    answer = Judgement
    pictures: Path | None = None


@dataclass(frozen=True)
class Explain(Question[Explained | None]):
    """Tell what a call executes, by the engine's own profiler; None where it has none."""

    name = "explain"
    answer = Explained | None


@dataclass(frozen=True)
class AskKernel(Question[Kernel]):
    """Tell whether the engine's kernels compute what the quantized network says."""

    name = "kernel"
    answer = Kernel


@dataclass(frozen=True)
class AskLayers(Question[Lowered | None]):
    """Tell what of the network the artefact holds in which number format; None where it cannot be counted."""

    name = "layers"
    answer = Lowered | None


@dataclass(frozen=True)
class Probe(Question[dict[str, float]]):
    """Measure the machine's pace on these CPUs, by control probes."""

    name = "probe"
    answer = dict[str, float]
    threads: int
    cores: tuple[int, ...] | None = None


@dataclass(frozen=True)
class MeasurePeaks(Question[dict[str, Peak]]):
    """Measure the machine's best pace on these CPUs, by number format."""

    name = "peak"
    answer = dict[str, Peak]
    threads: int
    cores: tuple[int, ...] | None = None


@dataclass(frozen=True)
class AskInstalled(Question[Interpreter]):
    """Tell which of these distributions the worker's interpreter finds, and where."""

    name = "installed"
    answer = Interpreter
    packages: tuple[str, ...]
