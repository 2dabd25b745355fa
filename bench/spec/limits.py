"""What the caller of a session allows a recipe that searches: how far quality may fall, how large weights may be."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Size:
    """A size of a network's weights: so many bytes, or a share of what they take in FP32; one of both is given."""

    bytes: int | None = None
    share: float | None = None

    def of(self, fp32_bytes: int) -> int:
        """The size in bytes of a network whose weights take `fp32_bytes` in FP32."""
        if self.bytes is not None:
            return self.bytes
        assert self.share is not None
        return int(self.share * fp32_bytes)


@dataclass(frozen=True)
class Limits:
    """Limits that replace those of a recipe; None leaves the recipe's own.

    drop  the most that the first figure of quality may fall, on the training side.
    size  the most that the weights may take, packed by their bits.
    """

    drop: float | None = None
    size: Size | None = None


NO_LIMITS = Limits()
