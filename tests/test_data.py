"""Claims about the data sets, and about what `bench data` does with them."""

import hashlib
import pickle
import socket
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10

from bench.build import data
from bench.errors import DataError, UnknownMember
from fixtures.data import cifar10, digits
from fixtures.models import resnet20


def one_line(error):
    return "\n" not in str(error.value)


def state_of(lines):
    """The state that each line tells, by the name before it."""
    return {line.split()[0]: " ".join(line[33:43].split()) for line in lines}


def write_part(folder, split, count=20):
    file = folder / f"cifar10/{'test_first1017' if split == 'test' else 'train_5085'}.npz"
    file.parent.mkdir(exist_ok=True)
    images = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    np.savez_compressed(file, images=images, labels=np.arange(count, dtype=np.uint8) % 10)
    return file


@pytest.fixture
def parts(tmp_path):
    """A folder with both parts of CIFAR-10 as npz: 20 images of the test split, 30 of the training split."""
    write_part(tmp_path, "test", 20)
    write_part(tmp_path, "train", 30)
    return tmp_path


@pytest.fixture
def published(tmp_path_factory, monkeypatch):
    """A folder with batches in the published form, 4 images each, that torchvision takes for the published ones."""
    folder = tmp_path_factory.mktemp("published")
    batches = folder / "cifar-10-batches-py"
    batches.mkdir()

    def write(name, content):
        (batches / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((batches / name).read_bytes()).hexdigest()

    names = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]
    sums = [
        [name, write(name, {"data": np.full((4, 3072), number, np.uint8), "labels": [number] * 4})]
        for number, name in enumerate(names)
    ]
    monkeypatch.setattr(CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(CIFAR10, "test_list", sums[5:])
    meta = {
        "filename": "batches.meta",
        "key": "label_names",
        "md5": write("batches.meta", {"label_names": list("0123456789")}),
    }
    monkeypatch.setattr(CIFAR10, "meta", meta)
    return folder


@pytest.fixture
def no_network(monkeypatch):
    """A machine that finds no other by name."""

    def lookup(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


@pytest.fixture
def serve(monkeypatch):
    """serve(content, cut) -> an address that gives the content, and hangs up after `cut` bytes of it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    servers = []

    def start(content, cut=None):
        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self):
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()

            def do_GET(self):
                self.do_HEAD()
                self.wfile.write(content[:cut])

            def log_message(self, *_):
                pass

        server = HTTPServer(("127.0.0.1", 0), Answer)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/file"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def packed(folder):
    file = folder / "packed.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")
    content = file.read_bytes()
    file.unlink()
    return content


# digits


def test_the_digits_split_is_disjoint_and_whole():
    train, test = ({image.tobytes() for image in digits.load(split, None).inputs} for split in ("train", "test"))
    assert (len(train), len(test), len(train | test)) == (1347, 450, 1797)


def test_the_digits_split_holds_each_class_in_proportion():
    train, test = (np.bincount(digits.load(split, None).targets) for split in ("train", "test"))
    assert abs(test - (train + test) * 450 / 1797).max() < 1


def test_the_digits_are_the_same_every_time():
    one, other = digits.load("test", None), digits.load("test", None)
    np.testing.assert_array_equal(one.inputs, other.inputs)
    np.testing.assert_array_equal(one.targets, other.targets)


def test_the_digits_look_like_photographs():
    test = digits.load("test", None)
    assert (test.inputs.shape, test.inputs.dtype, test.targets.dtype) == ((450, 32, 32, 3), np.uint8, np.int64)
    assert (test.inputs.min(), test.inputs.max()) == (0, 255)
    assert (test.inputs == test.inputs[..., :1]).all()


def test_the_digits_are_enlarged_by_bilinear_interpolation():
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images[:, None] * 255 / 16)
    exact = torch.nn.functional.interpolate(small, (32, 32), mode="bilinear")[:, 0].numpy()
    for image in digits.load("test", None).inputs[:5, ..., 0]:
        assert abs(exact - image).max(axis=(1, 2)).min() <= 1.5, "each of three roundings is at most half a step off"


# CIFAR-10


def test_the_parts_are_read_where_there_are_no_batches(parts):
    test, train = cifar10.load("test", parts), cifar10.load("train", parts)
    assert (len(test.inputs), len(train.inputs)) == (20, 30)
    assert (test.inputs.dtype, test.targets.dtype) == (np.uint8, np.int64)


def test_the_published_batches_are_preferred_to_the_parts(published):
    write_part(published, "test")
    write_part(published, "train")
    test, train = cifar10.load("test", published), cifar10.load("train", published)
    assert test.inputs.shape == (4, 32, 32, 3)
    assert (test.inputs == 5).all()
    assert (test.targets == 5).all()
    np.testing.assert_array_equal(train.targets, np.repeat(np.arange(5), 4))
    assert train.targets.dtype == np.int64


def test_missing_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"neither all of cifar-10-batches-py nor cifar10/train") as error:
        cifar10.load("test", tmp_path)
    assert one_line(error)


@pytest.mark.parametrize("kept", [0, 10, 1000, 20_000])
def test_a_truncated_part_is_refused_in_one_line(parts, kept):
    file = parts / "cifar10/test_first1017.npz"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"test_first1017\.npz is damaged") as error:
        cifar10.load("test", parts)
    assert one_line(error)


def test_a_part_with_one_damaged_byte_is_refused_in_one_line(parts):
    file = parts / "cifar10/test_first1017.npz"
    content = bytearray(file.read_bytes())
    content[200] ^= 255
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"test_first1017\.npz is damaged") as error:
        cifar10.load("test", parts)
    assert one_line(error)


def test_batches_without_one_of_them_do_not_pass_for_the_parts(published):
    write_part(published, "test")
    write_part(published, "train")
    (published / "cifar-10-batches-py/data_batch_3").unlink()
    with pytest.raises(DataError, match="lacks data_batch_3"):
        cifar10.files(published)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"pictures": np.zeros(3)}, "is damaged or no CIFAR-10 npz"),
        ({"images": np.zeros((3, 3, 32, 32), np.uint8), "labels": np.zeros(3, int)}, r"uint8 \(3, 3, 32, 32\)"),
        ({"images": np.zeros((3, 32, 32, 3), np.uint8), "labels": np.zeros(4, int)}, r"\(4, 32, 32, 3\) is expected"),
        ({"images": np.array([None]), "labels": np.zeros(1, int)}, "is damaged or no"),
    ],
)
def test_a_part_with_other_content_is_refused_in_one_line(parts, arrays, told):
    np.savez(parts / "cifar10/test_first1017.npz", **arrays)
    with pytest.raises(DataError, match=told) as error:
        cifar10.load("test", parts)
    assert one_line(error)


@pytest.mark.parametrize("name", ["test_batch", "data_batch_2", "batches.meta"])
def test_a_batch_that_is_not_the_published_one_is_never_unpickled(published, tmp_path, name):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "ran").touch, ()

    (published / "cifar-10-batches-py" / name).write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="cifar-10-batches-py is damaged") as error:
        cifar10.load("test", published)
    assert one_line(error)
    assert not (tmp_path / "ran").exists()


def test_cifar10_has_a_known_number_of_images_of_ten_classes(real_data):
    test, train = cifar10.load("test", real_data), cifar10.load("train", real_data)
    assert (len(test.inputs), len(train.inputs)) in {(1017, 5085), (10_000, 50_000)}
    assert set(test.targets) == set(train.targets) == set(range(10))


# fetching


@pytest.mark.parametrize("name", ["cifar10", "resnet20-12fca82f", "resnet20"])
def test_fetching_without_a_network_is_one_line_and_leaves_nothing(tmp_path, no_network, name):
    with pytest.raises(DataError, match="cannot fetch cifar10 to") as error:
        data.fetch(name, tmp_path / "new")
    assert one_line(error)
    assert not list((tmp_path / "new").iterdir())


def test_weights_without_a_network_are_one_line_and_leave_nothing_beside_the_data(parts, no_network):
    with pytest.raises(DataError, match="cannot fetch resnet20-12fca82f to") as error:
        data.fetch("resnet20", parts)
    assert one_line(error)
    assert [path.name for path in parts.iterdir()] == ["cifar10"]


@pytest.mark.parametrize("cut", [None, 500])
def test_a_download_that_is_not_the_published_file_leaves_none(parts, serve, monkeypatch, cut):
    monkeypatch.setattr(resnet20, "PUBLISHED_AT", serve(b"x" * 1000, cut))
    with pytest.raises(DataError, match="cannot fetch resnet20-12fca82f to") as error:
        data.fetch("resnet20", parts)
    assert one_line(error)
    assert [path.name for path in parts.iterdir()] == ["cifar10"]


def test_weights_are_brought_and_left_alone_when_whole(parts, serve, monkeypatch):
    file = parts / "own.th"
    torch.save({"state_dict": resnet20.network().state_dict()}, file)
    content = file.read_bytes()
    monkeypatch.setattr(resnet20, "PUBLISHED_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(resnet20, "PUBLISHED_AT", serve(content))
    assert state_of(data.fetch("resnet20-12fca82f", parts)) == {"cifar10": "whole", "resnet20-12fca82f": "fetched"}
    assert (parts / "weights/resnet20-12fca82f.th").read_bytes() == content
    monkeypatch.setattr(resnet20, "PUBLISHED_AT", "http://127.0.0.1:1/nothing")
    assert state_of(data.fetch("resnet20-12fca82f", parts)) == {"cifar10": "whole", "resnet20-12fca82f": "whole"}


def test_a_download_of_batches_that_breaks_off_leaves_the_folder_as_it_was(tmp_path, published, serve, monkeypatch):
    content = packed(published)
    monkeypatch.setattr(CIFAR10, "url", serve(content, len(content) // 2))
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    with pytest.raises(DataError, match="cannot fetch cifar10 to") as error:
        data.fetch("cifar10", tmp_path)
    assert one_line(error)
    assert not list(tmp_path.iterdir())


def test_batches_are_brought_and_mended(tmp_path, published, serve, monkeypatch):
    content = packed(published)
    monkeypatch.setattr(CIFAR10, "url", serve(content))
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(resnet20, "PUBLISHED_AT", "http://127.0.0.1:1/nothing")
    for _ in range(2):
        with pytest.raises(DataError, match="cannot fetch resnet20-12fca82f to"):
            data.fetch("cifar10", tmp_path)
        assert (cifar10.load("test", tmp_path).targets == 5).all()
        assert not list(tmp_path.glob(".fetching-*"))
        (tmp_path / "cifar-10-batches-py/test_batch").write_bytes(b"damaged")


def test_what_is_unknown_cannot_be_fetched_and_what_is_known_is_named(tmp_path):
    with pytest.raises(UnknownMember, match=r"named 'cifar'; registered: .*cifar10, resnet20-12fca82f, .*resnet20, "):
        data.fetch("cifar", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_fetching_what_is_built_in_brings_nothing(tmp_path, no_network):
    names = ("digits", "resnet20-digits-seed0", "resnet56-digits-seed0")
    assert state_of(data.fetch("digits", tmp_path)) == dict.fromkeys(names, "built in")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot fetch cifar10 to") as error:
        data.fetch("cifar10", tmp_path / "file" / "below")
    assert one_line(error)


# listing and checking


def test_the_list_tells_what_a_folder_holds(parts):
    told = {
        "cifar10": "there",
        "resnet20-12fca82f": "missing",
        "digits": "built in",
        "resnet20-digits-seed0": "built in",
    }
    assert state_of(data.list_data(parts)).items() >= told.items()
    assert state_of(data.list_data(None))["cifar10"] == "no folder"


def test_the_check_tells_what_is_missing_and_what_is_damaged(parts):
    (parts / "weights").mkdir()
    torch.save({"state_dict": {"module.fc.weight": torch.zeros(2)}}, parts / "weights/resnet20-12fca82f.th")
    lines, whole = data.check(parts)
    assert not whole
    assert state_of(lines).items() >= {"cifar10": "whole", "resnet20-12fca82f": "damaged", "digits": "built in"}.items()
    (parts / "weights/resnet20-12fca82f.th").unlink()
    lines, whole = data.check(parts)
    assert not whole
    assert state_of(lines)["resnet20-12fca82f"] == "missing"


def test_the_check_finds_nothing_wrong_with_real_data(real_data):
    states = state_of(data.check(real_data)[0])
    assert {states["cifar10"], states["resnet20-12fca82f"]} == {"whole"}


def test_a_folder_that_is_not_there_cannot_be_checked(tmp_path):
    with pytest.raises(DataError, match="no data folder at"):
        data.check(tmp_path / "nowhere")
