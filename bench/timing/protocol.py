"""What the harness asks a worker, and what it answers: typed messages, each a line of JSON.

A handshake comes first, once: the modules that a worker must import. Then come questions, each with the type of its
answer. A session's facts are sent when it is opened, not with each slice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from bench.build.network_files import GivenFile
from bench.build.sensitivity import Layer
from bench.machine.devices.device import Meter, Spell
from bench.machine.interpreter import Interpreter
from bench.machine.probes import Peak
from bench.spec.case import Case
from bench.spec.limits import NO_LIMITS, Limits
from bench.spec.metric import Metric
from bench.spec.outcome import Calibration, Explained, Figures, Judged, Kernel, Likeness, Lowered, Setting, Steady
from bench.spec.registry import Origin
from bench.statistics import Drop
from bench.timing.sampling import Slice

Answer = TypeVar("Answer")


class Question(Generic[Answer]):
    """A question to a worker: `name` identifies it in messages, `answer` is the type of the answer."""

    name: ClassVar[str]
    answer: ClassVar[Any]


@dataclass(frozen=True)
class Target:
    """A case, and the folders and limits that its network is built with."""

    case: Case
    cache: Path
    data: Path | None = None
    limits: Limits = NO_LIMITS


@dataclass(frozen=True)
class Built:
    """The folders that a session is opened on; `compiled` is for what its engine compiles, None where it keeps none."""

    artifact: Path
    reference: Path
    compiled: Path | None = None


@dataclass(frozen=True)
class Hello:
    """The handshake: the modules to import and the network files to register, to have the same models, engines and
    data.
    """

    origins: tuple[Origin, ...] = ()
    files: tuple[GivenFile, ...] = ()


@dataclass(frozen=True)
class Refer(Question[Path]):
    """Make the weights and reference outputs that are missing; the answer is the reference outputs' folder."""

    name = "refer"
    answer = Path
    target: Target


@dataclass(frozen=True)
class Build(Question[Built]):
    """Make the weights, reference outputs and artefact that are missing for the case."""

    name = "build"
    answer = Built
    target: Target


@dataclass(frozen=True)
class Rank(Question[tuple[Layer, ...]]):
    """Rank the layers by what each costs alone in the case's precision, the costliest first."""

    name = "rank"
    answer = tuple[Layer, ...]
    target: Target


@dataclass(frozen=True)
class Opened:
    """The facts of an open session.

    load_s            seconds to load, including the import of the engine.
    calls_per_sample  how many calls are timed together.
    left              the layers that stay in FP32 to limit the drop of quality.
    left_by           the figure that chose these layers.
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
    """Load the artefact, make the first call, bind to `cores` (None: not bound), and call until times are steady."""

    name = "open"
    answer = Opened
    target: Target
    built: Built
    cores: tuple[int, ...] | None = None


@dataclass(frozen=True)
class TakeSlice(Question[Slice]):
    """Call for `seconds`."""

    name = "slice"
    answer = Slice
    seconds: float


@dataclass(frozen=True)
class OnDeviceTimes:
    """What a session's process tells of its device; None for what the device or the engine does not tell.

    call    on resident inputs: see bench.machine.devices.device.on_device; reason  why it has no times.
    meter   of a block of calls as long as was asked for.
    """

    call: Spell | None = None
    reason: str | None = None
    allocated_bytes: int | None = None
    used_bytes: int | None = None
    meter: Meter | None = None


@dataclass(frozen=True)
class AskDevice(Question[OnDeviceTimes]):
    """Report the time and memory of a call on the device, and the energy of a block of calls of so many seconds."""

    name = "device"
    answer = OnDeviceTimes
    metered_s: float


@dataclass(frozen=True)
class Usage:
    """What a process has used: CPU seconds of each thread, involuntary context switches, peak memory in bytes."""

    threads_s: dict[str, float] = field(default_factory=dict)
    involuntary_switches: int | None = None
    peak_rss_bytes: int | None = None


@dataclass(frozen=True)
class AskUsage(Question[Usage]):
    """Report what the process has used."""

    name = "usage"
    answer = Usage


@dataclass(frozen=True)
class Judgement:
    """The quality of a session's answers to the whole test split; see bench.records.record.

    outputs  how close the raw outputs are to FP32's.
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
    """Judge the session on the whole test split; write strips of pictures to the folder `pictures`, None for none."""

    name = "evaluate"
    answer = Judgement
    pictures: Path | None = None


@dataclass(frozen=True)
class Explain(Question[Explained | None]):
    """Report what a call executes, by the engine's profiler; None where it has none."""

    name = "explain"
    answer = Explained | None


@dataclass(frozen=True)
class AskKernel(Question[Kernel]):
    """Report whether the engine's kernels compute what the quantized network says."""

    name = "kernel"
    answer = Kernel


@dataclass(frozen=True)
class AskLayers(Question[Lowered | None]):
    """Report which part of the network the artefact holds in which number format; None where it cannot be counted."""

    name = "layers"
    answer = Lowered | None


@dataclass(frozen=True)
class Probe(Question[dict[str, float]]):
    """Measure the machine's pace on these CPUs by control probes."""

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
    """Report which of these distributions the worker's interpreter has, and where."""

    name = "installed"
    answer = Interpreter
    packages: tuple[str, ...]
