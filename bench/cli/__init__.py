"""The command line: `bench report | compare | merge | history` of saved runs, `bench data list | fetch NAME | check |
tiles`, `bench train MODEL`, `bench sensitivity CASE`, `bench doctor`, `bench selftest MODEL`.
"""

from bench.cli.arguments import main
from bench.cli.commands import load_conftest

__all__ = ["load_conftest", "main"]
