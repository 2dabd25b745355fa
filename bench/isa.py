"""The instruction sets of this machine's processor."""

from __future__ import annotations

import functools
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


def has_vnni() -> bool:
    """Whether 8-bit products are summed in 32 bits at once, without the 16-bit saturation of older x86."""
    return not cpu_flags().isdisjoint(("avx512_vnni", "avx512vnni", "avx_vnni", "amx_int8"))
