"""The instruction sets of this machine's processor."""

from __future__ import annotations

import functools
import platform
from pathlib import Path


@functools.cache
def cpu_flags() -> frozenset[str]:
    """The processor's flags as Linux names them (`avx512_vnni`, `asimddp`); elsewhere as py-cpuinfo names them."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):
                return frozenset(flags.split())
    import cpuinfo

    return frozenset(cpuinfo.get_cpu_info().get("flags", ()))


def saturates() -> bool:
    """Whether INT8 kernels may saturate: x86 without VNNI sums two products of 8-bit numbers in 16 bits (vpmaddubsw).
    Weights or activations of 7 bits do not saturate.
    """
    vnni = ("avx512_vnni", "avx512vnni", "avx_vnni", "amx_int8")
    return platform.machine().lower() in ("x86_64", "amd64") and cpu_flags().isdisjoint(vnni)
