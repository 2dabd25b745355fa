"""Claims about `bench data tiles`: bright, dark, flat and detailed tiles, the same every time."""

import numpy as np
import pytest
from PIL import Image

from bench.cli import main


@pytest.fixture
def photos(tmp_path):
    chance = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(4):
        light = np.linspace(0, 255, 512)[None, :, None]
        rough = chance.normal(0, 1, (256, 512, 3)) * np.linspace(0, 60, 256)[:, None, None]
        Image.fromarray(np.clip(light + rough, 0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return folder


def test_tiles_are_a_quarter_of_each_kind_and_of_the_size_asked_for(photos, tmp_path, capsys):
    assert main(["data", "tiles", str(photos), str(tmp_path / "out"), "--size", "32", "--count", "20"]) == 0
    assert capsys.readouterr().out == f"20 tiles of 32x32 in {tmp_path / 'out'}: 5 bright, 5 dark, 5 flat, 5 detailed\n"
    found = {path.name: np.asarray(Image.open(path)) for path in (tmp_path / "out").iterdir()}
    assert {tile.shape for tile in found.values()} == {(32, 32, 3)}
    means = {kind: [tile.mean() for name, tile in found.items() if f"_{kind}_" in name] for kind in ("bright", "dark")}
    assert max(means["dark"]) < 80 < 170 < min(means["bright"])
    name = next(iter(found))
    file, top, left = name.removesuffix(".png").split("_")[2:]
    whole = np.asarray(Image.open(photos / f"{file}.png"))
    np.testing.assert_array_equal(found[name], whole[int(top) : int(top) + 32, int(left) : int(left) + 32])


def test_one_seed_cuts_one_set_and_another_another(photos, tmp_path):
    for name, seed in (("a", "0"), ("b", "0"), ("c", "1")):
        main(["data", "tiles", str(photos), str(tmp_path / name), "--size", "32", "--count", "12", "--seed", seed])
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in "abc"]
    assert names[0] == names[1] != names[2]


def test_what_cannot_be_cut_is_said_in_one_line(photos, tmp_path, capsys):
    assert main(["data", "tiles", str(photos), str(tmp_path / "out"), "--count", "9000"]) == 2
    assert "9000 tiles of 256x256 were asked for" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["data", "tiles", str(photos), str(tmp_path / "out"), "--size", "0"])
    assert "--size: wants a whole number from 1 to 1000000, not '0'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_something_is_left_alone(photos, tmp_path, capsys):
    assert main(["data", "tiles", str(photos), str(photos)]) == 2
    assert "is not empty" in capsys.readouterr().err
