"""Claims about the rooms of bench/: how many there are, how long their files, and that imports run down."""

import ast
import functools
from pathlib import Path

import pytest

import bench

HERE = Path(bench.__file__).parent
FILES = {
    ".".join(("bench", *file.relative_to(HERE).with_suffix("").parts)).removesuffix(".__init__"): file
    for file in HERE.rglob("*.py")
}


def imports(file):
    """The modules of bench that a file imports, inside functions too."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "bench":
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name for name in names if name in FILES and name != "bench"}


def room(module):
    return module.split(".")[1]


def arrows(level):
    """What each room, or each file, imports of the others."""
    found = {}
    for module, file in FILES.items():
        if module != "bench":
            found.setdefault(level(module), set()).update(map(level, imports(file)))
    return {name: others - {name} for name, others in found.items()}


def floors(graph):
    """The floor of each node, above all that it imports. Raises RecursionError where there is a circle."""

    @functools.cache
    def floor(name):
        return 1 + max(map(floor, graph[name]), default=0)

    return {name: floor(name) for name in graph}


def test_at_most_18_rooms_on_10_floors_without_a_circle():
    graph = arrows(room)
    assert len(graph) <= 18
    assert max(floors(graph).values()) <= 10


def test_no_two_files_import_each_other():
    floors({name: others - {name.rpartition(".")[0]} for name, others in arrows(lambda module: module).items()})


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_is_read_in_one_sitting(name):
    assert len(FILES[name].read_text().splitlines()) <= (40 if FILES[name].name == "__init__.py" else 350)


def test_the_picture_of_architecture_is_true():
    """Rooms of a line take nothing of those above it."""
    text = (HERE.parent / "ARCHITECTURE.md").read_text()
    picture = text.split("## The rooms of bench/")[1].split("| room |")[0]
    lines = [line.replace(",", " ").split() for line in picture.splitlines() if line.startswith("    ")]
    height = {name: place for place, line in enumerate(reversed(lines)) for name in line}
    graph = arrows(room)
    assert set(graph) - {"__main__"} == set(height)
    for name, others in graph.items():
        if name != "__main__":
            assert all(height[other] < height[name] for other in others), f"{name} imports of its own floor or above"
