"""Claims about exported programs: they are measured as networks of PyTorch, and nothing of the file's own ever runs."""

import io
import json
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from bench.build.exported_programs import module_of, program_of, roles_of_program, signature_of_program, unsafe
from bench.build.network_files import given_files, network_of, samples_of
from bench.errors import DataError
from bench.spec.network import Port


class Words(nn.Module):
    """Rows of a table, weighed by a mask, their mean, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(20, 64), nn.Linear(64, 3)

    def forward(self, ids, mask):
        kept = self.table(ids) * mask[:, :, None]
        return self.head(kept.sum(1) / mask.sum(1, keepdim=True))


def words():
    torch.manual_seed(0)
    return Words().eval()


def saved(file, free=True):
    batch = torch.export.Dim("batch")
    ids, mask = torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 6)
    shapes = {"ids": {0: batch}, "mask": {0: batch}} if free else None
    torch.export.save(torch.export.export(words(), (ids, mask), dynamic_shapes=shapes), file)
    return file


def test_a_program_is_read_with_its_names_types_and_free_sizes(tmp_path):
    file = saved(tmp_path / "words.pt2")
    assert unsafe(file.read_bytes()) is None
    signature = signature_of_program(file)
    (name, axis), *_ = [(port.name, port.shape[0]) for port in signature.inputs]
    assert name == "ids"
    assert signature.inputs == (Port("ids", "int64", (axis, 6)), Port("mask", "float32", (axis, 6)))
    assert signature.batch_axes == {"ids": 0, "mask": 0}
    assert roles_of_program(file)["ids"].below == 20


def test_its_network_gives_what_was_exported(tmp_path):
    module = module_of(program_of(saved(tmp_path / "words.pt2")))
    ids, mask = torch.randint(0, 20, (5, 6)), torch.rand(5, 6)
    with torch.inference_mode():
        torch.testing.assert_close(module(ids, mask), words()(ids, mask))


def test_drawn_inputs_lie_within_the_table(tmp_path):
    (given,) = given_files(saved(tmp_path / "words.pt2"), [], None, "words")
    items = samples_of(given, "test").inputs
    ids = np.concatenate([item.arrays["ids"] for item in items])
    assert ids.shape[1:] == (6,)
    assert 0 <= ids.min() < ids.max() < 20
    assert isinstance(network_of(given), nn.Module)


def test_a_fixed_count_of_items_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"fixes the count of items in ids int64 \(2, 6\).*dynamic_shapes"):
        given_files(saved(tmp_path / "words.pt2", free=False), [], None, "words")


def test_a_file_that_changes_while_a_session_runs_is_refused(tmp_path):
    (given,) = given_files(saved(tmp_path / "words.pt2"), [], None, "words")
    program = torch.export.export(nn.Linear(3, 3), (torch.ones(2, 3),))
    torch.export.save(program, tmp_path / "words.pt2")
    with pytest.raises(DataError, match="was changed since this session began"):
        network_of(given)


# nothing runs


class Runs:
    """Writes a file where it is unpickled."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return exec, (f"open({self.mark!r}, 'w').close()",)


def changed(file, change):
    """The archive with its parts, name -> bytes, after `change(parts)`."""
    with zipfile.ZipFile(file) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(parts)).partition("/")[0]
    inner = {name.partition("/")[2]: content for name, content in parts.items()}
    change(inner)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in inner.items():
            archive.writestr(f"{root}/{name}", content)
    return file


def edited(place, change):
    def edit(parts):
        part = json.loads(parts[place])
        change(part)
        parts[place] = json.dumps(part).encode()

    return edit


def first(part, key):
    """The first mapping in a part that has a key."""
    if isinstance(part, dict):
        if key in part:
            return part
        part = list(part.values())
    for item in part if isinstance(part, list) else ():
        if (inside := first(item, key)) is not None:
            return inside
    return None


MODEL, WEIGHTS = "models/model.json", "data/weights/model_weights_config.json"


def attacks(mark):
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    pickled = pickle.dumps(Runs(mark))

    def target(name):
        return edited(MODEL, lambda part: first(part, "target").update(target=name))

    def expression(text):
        return edited(MODEL, lambda part: first(part, "expr_str").update(expr_str=text))

    def structure(part):
        spec = json.loads(first(part, "out_spec")["out_spec"])
        spec[1]["type"] = "collections.defaultdict"
        first(part, "out_spec").update(out_spec=json.dumps(spec))

    def sample(parts):
        buffer = io.BytesIO()
        torch.save(((Runs(mark),), {}), buffer)
        parts["data/sample_inputs/model.pt"] = buffer.getvalue()

    return {
        "a size that is code": expression(code),
        "a size that reads attributes": expression("s0.__class__"),
        "a size that calls what is no function of sizes": expression("exec('1')"),
        "a function that is no operator": target("torch.load"),
        "a function that gets attributes": target("_operator.attrgetter"),
        "a function that calls": target("_operator.call"),
        "an operator that opens files": target("torch.ops.aten.from_file.default"),
        "an operator that writes files": target("torch.ops.aten.save.default"),
        "a structure that is no JSON": edited(MODEL, lambda part: first(part, "out_spec").update(out_spec="[")),
        "a compiled library": lambda parts: parts.update({"data/aotinductor/model/x.so": b""}),
        "a pickled constant": lambda parts: parts.update({"data/constants/opaque_obj_0": pickled}),
        "an old file of weights": lambda parts: parts.update({"data/weights/model.pt": pickled}),
        "pickled weights": edited(WEIGHTS, lambda part: first(part, "use_pickle").update(use_pickle=True)),
        "an example that is pickled": sample,
        "a structure with a factory": edited(MODEL, structure),
        "a part that is no JSON": lambda parts: parts.update({MODEL: b"{"}),
        "no model": lambda parts: parts.pop(MODEL),
    }


@pytest.mark.parametrize("name", list(attacks("")))
def test_a_file_that_could_run_something_is_refused_and_runs_nothing(name, tmp_path):
    mark = tmp_path / "it ran"
    file = changed(saved(tmp_path / "words.pt2"), attacks(mark)[name])
    with pytest.raises(DataError, match="is not read as an exported program: "):
        program_of(file)
    assert not mark.exists()


def test_guards_are_never_executed(tmp_path):
    mark = tmp_path / "it ran"
    code = f"__import__('pathlib').Path({str(mark)!r}).touch() is None"

    file = changed(saved(tmp_path / "words.pt2"), edited(MODEL, lambda part: part.update(guards_code=[code])))
    module = module_of(program_of(file))
    module(torch.ones(2, 6, dtype=torch.int64), torch.ones(2, 6))
    assert not mark.exists()


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "a.pt2").write_bytes(pickle.dumps(Runs(tmp_path / "it ran")))
    with pytest.raises(DataError, match="it is no archive of one"):
        program_of(tmp_path / "a.pt2")
    assert not (tmp_path / "it ran").exists()


# pytest theirs.pt2


def test_a_program_on_the_command_line_is_measured_on_engines_that_build_from_pytorch(tmp_path):
    saved(tmp_path / "words.pt2")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "words.pt2", "--bench-quick"),
            *("--bench-engine=torch,onnxruntime", "--bench-precision=fp32,int8_static"),
            *("--benchmark-json=run.json", "--bench-cache=cache"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    saved_run = json.loads((tmp_path / "run.json").read_text())
    cases = [entry["extra_info"]["case"] for entry in saved_run["benchmarks"]]
    measured = {(case["engine"], case["precision"]) for case in cases}
    assert measured >= {("torch", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8_static")}
    assert "no quality: these are drawn numbers" in done.stdout
    assert "Speed-up over torch fp32" in done.stdout
