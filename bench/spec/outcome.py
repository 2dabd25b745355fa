"""The result of a case: the parts of a record. All times in seconds, all sizes in bytes; None where not measured.

Fields keep their names on disk. Most have a default, so that what an older run lacks is absent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from bench.spec.case import Case

# metric -> figure, None where there is no such number; details, such as the IoU of each class, in dicts of their own
Figures = dict[str, float | dict[str, float | None] | None]


def number(figures: Figures, name: str) -> float:
    """A figure by name; NaN where it is missing, null or made of details."""
    value = figures.get(name)
    return math.nan if value is None or isinstance(value, dict) else value


def parts_of(value: object) -> list[object]:
    """The values of a figure's details; the figure alone where it has none."""
    return list(value.values()) if isinstance(value, dict) else [value]


def names_of(figures: Figures) -> list[str]:
    """The names of all figures; a detail's name follows its figure's: `top1`, `iou.7`."""
    return [
        name
        for figure, value in figures.items()
        for name in ([f"{figure}.{part}" for part in value] if isinstance(value, dict) else [figure])
    ]


# the value of a thread pool's size or setting
Setting = bool | int | float | str | None


@dataclass(frozen=True)
class Judged:
    """What quality was judged on.

    n          how many items had a target.
    dataset    the name of the data set; weights  the name of the network's weights.
    dataset_s  the time of the predictions for all items.
    reason     why there is no quality: the data have no ground truth.
    """

    n: int | None = None
    dataset: str | None = None
    weights: str | None = None
    dataset_s: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Likeness:
    """How close outputs are to a reference's.

    sqnr_db    over the values that are no classes, NaN where all are; places where the reference is not finite do not
               count.
    whole      whether all values are classes.
    agreement  the share 0..1 of equal classes; of equal values where none are classes.
    finite     whether no output is NaN, or infinite where the reference is not.
    """

    sqnr_db: float
    whole: bool = False
    agreement: float = 1.0
    finite: bool = True


@dataclass(frozen=True)
class Medians:
    """One launch: for each round the median call of the case and of its baseline."""

    case_s: tuple[float, ...] = ()
    baseline_s: tuple[float, ...] = ()


@dataclass(frozen=True)
class BaselineFacts:
    """What a case was measured in turn with."""

    case: Case | None = None
    versions: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Speedup:
    """How many times as fast as its baseline a case is; only `baseline` and `reason` where comparing broke.

    low, high   the ends of the interval at the level `confidence`; None after a single launch.
    launches    pairs of processes; `first` of them were of the first stage, None in runs without stages.
    rounds      the number over all launches.
    verdict     see bench.statistics.verdict.
    """

    baseline: BaselineFacts | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    confidence: float | None = None
    launches: int | None = None
    first: int | None = None
    rounds: int | None = None
    verdict: str | None = None
    medians: tuple[Medians, ...] = ()
    reason: str | None = None


@dataclass(frozen=True)
class Steady:
    """Whether calls became steady after the first, and after how many calls and seconds."""

    steady: bool = False
    calls: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class ArtifactFacts:
    """The artefact that ran.

    digest        sha256, hex.
    left_in_fp32  the layers that stayed in FP32 to keep to a most drop; left_by  the figure that selected them.
    reference     the digest of FP32 PyTorch's answers to the same inputs, after the recipe's steps.
    steps         the recipe's steps, each with its settings.
    gzip_bytes    with steps: the size of its files as gzip compresses them.
    huffman_bytes with steps: the size of the network's weights in Huffman's code, before an engine lowered them.
    packed_bytes  with own scales: its state's size with weights packed by their bits; layers_by_bits  these layers.
    """

    digest: str | None = None
    bytes: int | None = None
    format: str | None = None
    left_in_fp32: tuple[str, ...] = ()
    left_by: str | None = None
    reference: str | None = None
    steps: tuple[str, ...] = ()
    gzip_bytes: int | None = None
    huffman_bytes: int | None = None
    packed_bytes: int | None = None
    layers_by_bits: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class LeftLayer:
    """A layer that is not in the wanted number format, its share 0..1 of the multiply-accumulates, and the reason."""

    name: str
    kind: str = ""
    format: str = ""
    macs: float = 0.0
    reason: str | None = None


@dataclass(frozen=True)
class Lowered:
    """How much of the network the artefact holds in which number format.

    wanted    the number format asked for.
    macs      the shares 0..1 of the multiply-accumulates by number format; weights  the same of the weights.
    promised  the share that the recipe promises in `wanted`.
    of        what it promises a share of: "macs", or "weights" where the engine stores weights in `wanted` and computes
              in another format.
    left      the layers that are not in `wanted`, of `layers` in all.
    reason    why nothing was counted.
    """

    wanted: str | None = None
    macs: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    promised: float | None = None
    of: str = "macs"
    left: tuple[LeftLayer, ...] = ()
    layers: int | None = None
    reason: str | None = None

    @property
    def shares(self) -> dict[str, float]:
        """The shares 0..1, by number format, that the recipe's promise is about."""
        return self.weights if self.of == "weights" else self.macs


@dataclass(frozen=True)
class ErringLayer:
    """A layer whose kernel errs: the SQNR in dB of its outputs against floating point, from the same inputs."""

    name: str
    kernel_db: float


@dataclass(frozen=True)
class Kernel:
    """Whether INT8 kernels compute what the quantized network says.

    kernel_db     the SQNR in dB of the engine's outputs against the same artefact computed in floating point; None
                  where they are `equal`.
    quantized_db  the SQNR in dB of that floating-point result against FP32.
    agreement, quantized_agreement  the shares of equal values, where outputs are whole numbers.
    by            what computed it in floating point; `reason`  why nothing did.
    erring        the worst layers, where kernels err.
    """

    kernel_db: float | None = None
    equal: bool | None = None
    quantized_db: float | None = None
    agreement: float | None = None
    quantized_agreement: float | None = None
    by: str | None = None
    reason: str | None = None
    erring: tuple[ErringLayer, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """How many inputs were asked for to calibrate INT8, and how many there were."""

    asked: int
    used: int


@dataclass(frozen=True)
class Process:
    """What a worker was given and used.

    cores            the CPUs that it was bound to, None where unbound.
    pool             the sizes and settings of its thread pools after loading.
    call_overhead_s  what timing adds to a call, measured in that worker on a session that does nothing.
    """

    versions: dict[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] | None = None
    pool: dict[str, Setting] = field(default_factory=dict)
    call_overhead_s: float | None = None
    threads_used: int | None = None


@dataclass(frozen=True)
class DeviceFacts:
    """A device other than the CPU, None for what it does not tell.

    kind   the axis value, such as "cuda"; index  its number among these.
    uuid   what tells it apart from all others.
    """

    kind: str | None = None
    name: str | None = None
    index: int | None = None
    uuid: str | None = None
    driver: str | None = None
    memory_bytes: int | None = None
    power_limit_w: float | None = None
    capability: str | None = None


@dataclass(frozen=True)
class OnDevice:
    """A case on a device other than the CPU; None for what could not be measured.

    device            what it is.
    device_s          seconds of a call on the device by its own clock, with inputs and outputs there; the time of the
                      host is not in it.
    issue_s           seconds that the host takes to issue such a call.
    launch_bound      whether the host takes longer to issue a call than the device to compute it.
    allocated_bytes   the most that the framework's allocator had given out.
    used_bytes        what the process holds on the device, with its context and libraries.
    energy_j_per_call of the device in a block of `energy_s` seconds of calls, idle power included.
    idle_w            watts of the idle device just before that block.
    mhz, celsius      the lowest clock and the highest temperature after a pass of sampling.
    """

    device: DeviceFacts
    device_s: float | None = None
    issue_s: float | None = None
    launch_bound: bool | None = None
    allocated_bytes: int | None = None
    used_bytes: int | None = None
    energy_j_per_call: float | None = None
    energy_s: float | None = None
    idle_w: float | None = None
    mhz: float | None = None
    celsius: float | None = None


@dataclass(frozen=True)
class Efficiency:
    """The pace of a case.

    macs_per_item  multiply-accumulates of one item.
    gops           10^9 operations a second in the median call, two for each multiply-accumulate.
    share_of_peak  the share of `peak_gops`, the best that this machine reaches in that number format with so many
                   threads; None where nothing measures it.
    """

    macs_per_item: int | None = None
    gops: float | None = None
    share_of_peak: float | None = None
    peak_gops: float | None = None
    peak_by: str | None = None


@dataclass(frozen=True)
class Executed:
    """One kind of operation that a call executed: its total time in the call, and its share 0..1 of the call."""

    kind: str
    format: str = ""
    time_s: float | None = None
    count: int = 1
    kernel: str | None = None
    share: float | None = None


@dataclass(frozen=True)
class Explained:
    """What a call executed.

    time        the shares 0..1 of its time by number format.
    count_int8  the share of its operations that are in INT8.
    operations  the longest; diagnosis  a sentence.
    """

    time: dict[str, float] = field(default_factory=dict)
    count_int8: float | None = None
    operations: tuple[Executed, ...] = ()
    diagnosis: str | None = None


@dataclass(frozen=True)
class Spent:
    """The time in which the case or its baseline was called, and the whole time that the case took."""

    sampled_s: float | None = None
    whole_s: float | None = None


@dataclass(frozen=True)
class Calls:
    """The median call by pytest-benchmark's statistics.

    error  its relative standard error by the run's `count` calls, None where they do not give it.
    """

    median_s: float
    error: float | None = None
    count: int = 1
