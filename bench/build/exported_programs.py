"""Exported programs (.pt2) from elsewhere: read only where nothing of the file's own can run.

PyTorch's reader unpickles, evaluates size expressions as Python, and looks functions up by name. A file passes only if
it holds nothing that makes use of that; guards, which would be executed, are never made.
"""

from __future__ import annotations

import ast
import functools
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.engines.onnx_graphs import Role
from bench.errors import DataError
from bench.spec.network import Port, Signature

if TYPE_CHECKING:
    import torch

MODEL = "models/model.json"
# entries of an archive, below its own root folder
ENTRIES = re.compile(
    r"(models/model\.json|data/(weights|constants)/(weight|tensor)_[0-9]+|data/(weights|constants)/model_[a-z_]*config\.json"
    r"|data/sample_inputs/model\.pt|archive_format|archive_version|version|byteorder|\.data/[a-z_]+|extra/.*)"
)
# PyTorch's operators but for those that open files; Python's on numbers, not those that get attributes or call
OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|higher_order|quantized_decomposed)\.(?!(save|from_file)\b)[\w.]+|torch\.sym_\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem|lshift|rshift)"
)
SYMBOLS = re.compile(r"[a-z]+[0-9]+|int_oo|oo|true|false", re.IGNORECASE)
FUNCTIONS = (
    *("FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv", "CeilToInt", "FloorToInt", "CeilDiv"),
    *("LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv", "IntTrueDiv", "TruncToFloat", "TruncToInt"),
    *("RoundToInt", "RoundDecimal", "ToFloat", "Identity", "Max", "Min", "Abs", "Eq", "Ne", "Ge", "Gt", "Le", "Lt"),
    *("And", "Or", "Not", "Symbol", "Integer", "Float", "Rational", "Add", "Mul", "Pow"),
)
TEXTS = re.compile(r"[a-z]+[0-9]+|[-+.0-9e]+")  # a symbol's name, a number's digits
ASSUMPTIONS = ("positive", "nonnegative", "integer", "real", "finite", "precision", "evaluate")
ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.Load),
    *(ast.operator, ast.unaryop, ast.boolop, ast.cmpop),
)
STRUCTURES = (None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")


def program_of(file: Path) -> torch.export.ExportedProgram:
    """The exported program in a file. Raises DataError where it cannot be read, or could run code of its own."""
    import torch

    content = file.read_bytes()
    if reason := unsafe(content):
        raise DataError(f"{file} is not read as an exported program: {reason}")
    try:
        return torch.export.load(io.BytesIO(content))
    except Exception as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise DataError(f"{file} cannot be read as an exported program by torch {torch.__version__}: {line}") from error


def module_of(program: torch.export.ExportedProgram) -> torch.nn.Module:
    """The program as a module in eval mode; without its guards, which are code."""
    import torch

    module = program.module(check_guards=False)
    return torch.fx.GraphModule(module, module.graph)  # PyTorch's own refuses train() and eval()


def unsafe(content: bytes) -> str | None:
    """Why the content of a .pt2 file must not be read; None where nothing in it can run."""
    import torch

    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        return f"it is no archive of one ({error})"
    if MODEL not in entries:
        return f"it has no {MODEL}"
    for name in entries:
        if ENTRIES.fullmatch(name) is None:
            return f"{name} in it may be code; only a model with plain tensors is read"
    try:
        parts = {name: json.loads(text) for name, text in entries.items() if name.endswith(".json")}
    except (ValueError, RecursionError) as error:
        return f"a part of it is no JSON ({error})"
    for name, part in parts.items():
        try:
            reason = next(_faults(part), None)
        except (ValueError, RecursionError) as error:
            reason = f"cannot be understood ({type(error).__name__})"
        if reason:
            return f"{name} in it {reason}"
    for name, part in entries.items():
        if name.endswith(".pt") and part:
            try:
                torch.load(io.BytesIO(part), weights_only=True)
            except Exception as error:  # the reader would unpickle it without limits
                return f"{name} in it holds more than tensors ({type(error).__name__})"
    return None


def _faults(part: Any) -> Iterator[str]:
    """What makes a part of an archive's JSON unsafe, in words."""
    if isinstance(part, list):
        for item in part:
            yield from _faults(item)
    if not isinstance(part, dict):
        return
    if part.get("use_pickle"):
        yield f"names a pickled tensor, {part.get('path_name')}"
    target = part.get("target")
    if "inputs" in part and isinstance(target, str) and OPERATORS.fullmatch(target) is None:
        yield f"calls {target}, which is no operator of PyTorch's"
    expression = part.get("expr_str")
    if isinstance(expression, str) and not _is_arithmetic(expression):
        yield f"has the size {expression!r}, which is no arithmetic"
    for place in ("in_spec", "out_spec"):
        if isinstance(part.get(place), str) and part[place] and (kind := _odd_structure(json.loads(part[place]))):
            yield f"holds inputs or outputs in {kind}; only tuples, lists and dicts are read"
    for value in part.values():
        yield from _faults(value)


def _is_arithmetic(expression: str) -> bool:
    """Whether an expression computes with numbers, symbols and known functions alone."""
    try:
        nodes = list(ast.walk(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError, RecursionError):
        return False
    called = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return all(_is_plain(node, id(node) in called) for node in nodes)


def _is_plain(node: ast.AST, called: bool) -> bool:
    """Whether a part of an expression is a number, a symbol, an operator or a known function."""
    if isinstance(node, ast.Name):
        return node.id in FUNCTIONS if called else SYMBOLS.fullmatch(node.id) is not None
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    if isinstance(node, ast.keyword):
        return node.arg in ASSUMPTIONS and isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Constant):
        text = node.value
        return TEXTS.fullmatch(text) is not None if isinstance(text, str) else isinstance(text, (bool, int, float))
    return isinstance(node, ARITHMETIC)


def _odd_structure(spec: Any) -> str | None:
    """The first type in a specification of inputs or outputs that is no plain container; None where all are."""
    if isinstance(spec, list):
        return next((kind for item in spec if (kind := _odd_structure(item))), None)
    if not isinstance(spec, dict):
        return None
    if spec.get("type") not in STRUCTURES:
        return str(spec["type"])
    return _odd_structure(spec.get("children_spec", []))


def check_program(file: Path, signature: Signature, quantized: bool) -> None:
    """Raise DataError where an exported program cannot be measured."""
    if quantized:
        raise DataError(
            f"{file} holds quantized numbers already, which PyTorch computes in floating point: give the FP32 program, "
            "or the file of the runtime that it is for"
        )
    fixed = [str(port) for port in signature.inputs if signature.batch_axes[port.name] is None]
    if fixed:
        raise DataError(
            f"{file} fixes the count of items in {', '.join(fixed)}: export it with that axis free, "
            "torch.export.export(..., dynamic_shapes=...)"
        )


@functools.lru_cache(maxsize=1)  # collecting a file asks for its graph three times
def _graph(file: Path, _changed_ns: int, _size: int) -> torch.export.ExportedProgram:
    return program_of(file)


def graph_of_program(file: Path) -> torch.export.ExportedProgram:
    """The exported program in a file, to be read, not changed or run. Raises DataError as `program_of`."""
    try:
        facts = file.stat()
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}") from error
    return _graph(file, facts.st_mtime_ns, facts.st_size)


def is_quantized_program(file: Path) -> bool:
    """Whether an exported program quantizes and dequantizes. Raises DataError as `program_of`."""
    return any("quantized_decomposed" in str(node.target) for node in graph_of_program(file).graph.nodes)


def roles_of_program(file: Path) -> dict[str, Role]:
    """The inputs that an exported program looks up in a table, with the table's size."""
    import torch

    roles: dict[str, Role] = {}
    for node in graph_of_program(file).graph.nodes:
        if node.target is torch.ops.aten.embedding.default:
            table, index = node.args[:2]
            while index.op == "call_function" and index.all_input_nodes:
                index = index.all_input_nodes[0]
            roles[index.name] = Role(below=int(table.meta["val"].shape[0]))
    return roles


def signature_of_program(file: Path) -> Signature:
    """What an exported program takes and gives. Raises DataError as `program_of`."""
    program = graph_of_program(file)
    values = {node.name: node.meta.get("val") for node in program.graph.nodes}

    def port(name: str) -> Port:
        value = values.get(name)
        if value is None or not hasattr(value, "shape"):
            raise DataError(f"{file} takes or gives {name}, which is no tensor")
        shape = tuple(int(extent) if isinstance(extent, int) else str(extent) for extent in value.shape)
        return Port(name, str(value.dtype).removeprefix("torch."), shape)

    signature = program.graph_signature
    return Signature(tuple(map(port, signature.user_inputs)), tuple(map(port, signature.user_outputs)))
