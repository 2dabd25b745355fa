"""Restoration: pictures against the pictures that they should have become.

An answer is a picture (channels, height, width) float in 0..1, as its target is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.spec.metric import DECIBEL, Metric
from bench.spec.outcome import Figures

if TYPE_CHECKING:
    import numpy as np


def psnr_db(answer: np.ndarray, target: np.ndarray) -> float:
    """The peak signal-to-noise ratio in dB of two pictures of one shape in 0..1; infinity where they are equal."""
    import numpy as np

    error = np.square(answer.astype(np.float64) - target.astype(np.float64)).mean()
    return float(10 * np.log10(1 / error)) if error else float("inf")


def ssim(answer: np.ndarray, target: np.ndarray) -> float:
    """The structural similarity, -1..1, of two pictures (channels, height, width) in 0..1: by Gaussians of 1.5 pixels,
    as Wang et al. 2004, "Image Quality Assessment: From Error Visibility to Structural Similarity", state it.
    """
    from skimage.metrics import structural_similarity

    return float(
        structural_similarity(
            answer,
            target,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
    )


LOUDER = 8


@dataclass(frozen=True)
class Restoration:
    """Judges pictures by the mean over pictures.

    space    the colour space that the answers and targets are in; part of the figures' names.
    lightness_border  where the first channel is the lightness: it is judged alone too, without so many pixels at each
             border, as is usual in super-resolution. None: it is not.
    against  what the targets are, where they are not what the pictures should have become; part of the figures' names.
    """

    space: str
    lightness_border: int | None = None
    against: str = ""

    metrics: ClassVar = (Metric("psnr_*", DECIBEL), Metric("ssim_*"))

    def quality(self, answers: Sequence[np.ndarray], targets: Sequence[np.ndarray | None]) -> Figures:
        """psnr_<space>_shave0_db and ssim_<space>_shave0 of all channels; psnr_y_shave<border>_db of the lightness. NaN
        where no picture has a target.
        """
        found = self.scores(answers, targets)
        return {name: float(scores.mean()) if len(scores) else float("nan") for name, scores in found.items()}

    def scores(self, answers: Sequence[np.ndarray], targets: Sequence[np.ndarray | None]) -> dict[str, np.ndarray]:
        """The same of each picture that has a target."""
        import numpy as np

        pairs = [(answer, target) for answer, target in zip(answers, targets, strict=True) if target is not None]
        found = {
            f"psnr_{self.against}{self.space}_shave0_db": np.array([psnr_db(*pair) for pair in pairs]),
            f"ssim_{self.against}{self.space}_shave0": np.array([ssim(*pair) for pair in pairs]),
        }
        if self.lightness_border is not None:
            inner = slice(self.lightness_border, -self.lightness_border)
            found[f"psnr_y_shave{self.lightness_border}_db"] = np.array(
                [psnr_db(answer[0, inner, inner], target[0, inner, inner]) for answer, target in pairs]
            )
        return found

    def fidelity(self, answers: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> Figures:
        """psnr_db against the reference, and the named degradations."""
        import numpy as np

        found = [degradations(*pair) for pair in zip(answers, reference, strict=True)]
        means = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        return {"psnr_db": means.pop("psnr_db"), "degradation": {**means}}

    def decided(self, answer: np.ndarray) -> np.ndarray:
        """The picture in levels of 8 bits."""
        import numpy as np

        return (np.clip(answer, 0, 1) * 255).round().astype(np.uint8)

    def shown(self, item: Any, target: np.ndarray, answer: np.ndarray, known: np.ndarray) -> dict[str, np.ndarray]:
        """The target, FP32's answer, the answer, and what is between the two, eight times as large."""
        import numpy as np

        panels = {
            "original": self._seen(target),
            "FP32": self._seen(known),
            "this case": self._seen(answer),
        }
        difference = np.abs(panels["this case"].astype(np.int16) - panels["FP32"])
        return panels | {f"difference x{LOUDER}": np.clip(difference * LOUDER, 0, 255).astype(np.uint8)}

    def _seen(self, picture: np.ndarray) -> np.ndarray:
        """A picture (c, h, w) in 0..1 of this colour space as (h, w, 3) uint8 RGB."""
        import numpy as np
        from PIL import Image

        whole = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0)
        if self.space == "ycbcr":
            return np.asarray(Image.fromarray(whole, "YCbCr").convert("RGB"))
        return np.repeat(whole, 3, axis=2) if whole.shape[2] == 1 else whole


def degradations(answer: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """What became of a picture (channels, height, width) in 0..1, against the reference's:

    psnr_db, ssim   as above, against the reference.
    detail          its share of the reference's high frequencies: the ratio of the Laplacians' deviations, 1 where
                    none is lost.
    banding         how much more of the pixels, 0..1, equal their right neighbour to 1/8 of a level of 8 bits in places
                    where the reference has a gentle slope: 0 is none.
    clipping        how much more of the values, 0..1, lie within half a level of 8 bits of 0 or 1.
    colour_shift    the largest change of a channel's mean, in levels of 8 bits.
    contrast        the ratio of the deviations, 1 is unchanged.
    """
    import numpy as np
    from scipy.ndimage import laplace

    answer, reference = answer.astype(np.float64), reference.astype(np.float64)
    level = 1 / 255

    def edges(picture: np.ndarray) -> float:
        return float(np.std([laplace(channel) for channel in picture]))

    def clipped(picture: np.ndarray) -> float:
        return float(((picture <= level / 2) | (picture >= 1 - level / 2)).mean())

    slope = np.abs(np.diff(reference, axis=-1))
    gentle = (slope > level / 4) & (slope < 2 * level)
    flat = [np.abs(np.diff(picture, axis=-1))[gentle] < level / 8 for picture in (answer, reference)]
    means = [picture.mean(axis=(-2, -1)) for picture in (answer, reference)]
    return {
        "psnr_db": psnr_db(answer, reference),
        "ssim": ssim(answer, reference),
        "detail": edges(answer) / edges(reference) if edges(reference) else 1.0,
        "banding": float(flat[0].mean() - flat[1].mean()) if gentle.any() else 0.0,
        "clipping": clipped(answer) - clipped(reference),
        "colour_shift": float(np.abs(means[0] - means[1]).max() / level),
        "contrast": float(answer.std() / reference.std()) if reference.std() else 1.0,
    }


RGB = Restoration("rgb")
YCBCR = Restoration("ycbcr", lightness_border=4)
GREY = Restoration("grey")
GENERATION = Restoration("rgb", against="to_input_")
