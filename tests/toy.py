"""A model, a data set and an engine that cost next to nothing, for tests of the line itself.

Written as a user writes them into a conftest.py; `CONFTEST` is its text.
"""

from pathlib import Path

CONFTEST = Path(__file__).read_text()

import json  # noqa: E402
import os  # noqa: E402
import time  # noqa: E402

from bench import Dataset, Engine, Model, Samples, Weights, datasets, engines, models  # noqa: E402
from bench.errors import Unsupported  # noqa: E402


def load(split, folder):
    """Two clouds of noise, told apart by their mean."""
    import numpy as np

    rng = np.random.default_rng(["train", "test"].index(split))
    labels = np.arange(50) % 2
    return Samples(rng.normal(labels[:, None] * 4.0 - 2.0, 1.0, (50, 3)).astype("float32"), labels)


def network():
    """Scores of the two clouds."""
    import torch

    linear = torch.nn.Linear(3, 2)
    torch.nn.init.constant_(linear.bias, 0.0)
    linear.weight.data = torch.tensor([[-1.0] * 3, [1.0] * 3])
    return linear


class Toy(Engine):
    """Multiplies by numpy, and breaks in the way that the environment variable TOY_FAULT names."""

    packages = ("numpy",)
    format = "json"

    def supports(self, recipe, device):
        return None if recipe.number_format == "fp32" else "the toy engine computes in FP32 only"

    def build(self, network, recipe, samples, folder):
        if os.environ.get("TOY_FAULT") == "build":
            raise ValueError("the toy cannot build this")
        if os.environ.get("TOY_FAULT") == "unsupported":
            raise Unsupported("the toy has no kernel for this network")
        facts = {name: tensor.tolist() for name, tensor in network.state_dict().items()}
        (folder / "toy.json").write_text(json.dumps(facts | {"calibrated_with": len(samples)}))

    def load(self, folder, recipe, network, example, threads):
        import numpy as np

        print("a library prints on standard output")
        facts = json.loads((folder / "toy.json").read_text())
        weight, bias = np.float32(facts["weight"]), np.float32(facts["bias"])
        fault = os.environ.get("TOY_FAULT")

        def predict(inputs):
            if fault == "exit":
                os._exit(7)
            if fault == "signal":
                os.abort()
            if fault == "flood":
                for _ in range(2000):
                    os.write(2, b"flood " * 10_000)
                os._exit(3)
            if fault == "memory":
                np.ones(1 << 30)
            if fault == "fork" and os.fork() == 0:
                time.sleep(600)
            if fault == "hang":
                time.sleep(600)
            if fault == "writes":
                inputs *= 2
            if fault == "raise":
                raise RuntimeError("the toy is broken")
            if fault == "coarse":
                return (inputs @ weight.T + bias).astype("float16").round(1).astype("float32")
            return inputs @ weight.T + (np.nan if fault == "nan" else bias)

        return predict


datasets.add("clouds", Dataset("clouds", "two clouds of noise", load), __name__)
models.add("linear", Model("linear", "classification", network, (Weights("as made", "clouds"),)), __name__)
engines.add("toy", Toy(), __name__)
