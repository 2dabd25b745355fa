"""The toy engine with a compiler: at the first call it writes a file into a folder, unless that is there already."""

import os
import time
from pathlib import Path

import toy

from bench import engines

COMPILING_S = 0.3


class Compiling(toy.Toy):
    """Keeps what it compiles in the folder that TOY_COMPILED names."""

    compiled = "TOY_COMPILED"

    def load(self, folder, recipe, network, example, threads):
        inner, file = super().load(folder, recipe, network, example, threads), Path(os.environ["TOY_COMPILED"]) / "made"

        def predict(inputs):
            if not file.exists():
                time.sleep(COMPILING_S)
                file.write_text("kernels")
            return inner(inputs)

        return predict


engines.add("toy_compiling", Compiling(), __name__)
