"""Official LIBERO demonstrations, on small files of exactly their layout."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from fovea.cli import main
from fovea.data import import_libero, keys
from fovea.data.dataset import open_dataset
from fovea.data.import_libero import LiberoImportConfig
from fovea.errors import FoveaError
from fovea.sim.env import axis_angle

NAME = "pick_up_the_milk_and_place_it_in_the_basket_demo.hdf5"
SENTENCE = "pick up the milk and place it in the basket"
COLOURS = {"top left": 30, "top right": 90, "bottom left": 150, "bottom right": 210}
DOWN = [np.pi, 0.02, -0.01]  # axis-angle of a gripper that points down, as robosuite writes it


def upside_down(steps: int, side: int, shade: int) -> np.ndarray:
    """Pictures (T, S, S, 3) of four grey squares, named by where they are in the FILE."""
    picture = np.empty((steps, side, side, 3), np.uint8)
    half = side // 2
    for place, grey in COLOURS.items():
        rows = slice(0, half) if "top" in place else slice(half, side)
        columns = slice(0, half) if "left" in place else slice(half, side)
        picture[:, rows, columns] = grey + shade
    return picture


def write_demo(data: h5py.Group, name: str, steps: int, side: int) -> h5py.Group:
    rng = np.random.default_rng(steps)
    group = data.create_group(name)
    actions = rng.uniform(-0.9, 0.9, (steps, 7))
    actions[:, 6] = np.where(np.arange(steps) < steps // 2, -1.0, 1.0)
    position = rng.uniform(-0.2, 0.2, (steps, 3))
    obs = group.create_group("obs")
    obs["agentview_rgb"] = upside_down(steps, side, 0)
    obs["eye_in_hand_rgb"] = upside_down(steps, side, 20)
    obs["ee_pos"], obs["ee_ori"] = position, np.tile(DOWN, (steps, 1))
    obs["ee_states"] = np.hstack([position, np.tile(DOWN, (steps, 1))])
    obs["gripper_states"] = np.tile([0.04, -0.04], (steps, 1))
    obs["joint_states"] = rng.normal(size=(steps, 7))
    group["actions"] = actions
    group["dones"] = group["rewards"] = (np.arange(steps) == steps - 1).astype(np.uint8)
    group["robot_states"], group["states"] = rng.normal(size=(steps, 9)), rng.normal(size=(steps, 110))
    group.attrs["num_samples"] = steps
    group.attrs["init_state"] = group["states"][0]
    group.attrs["model_file"] = "<mujoco/>"
    return group


def write_file(
    path: Path, steps: tuple[int, ...] = (6, 5, 7), side: int = 128, language: str = SENTENCE
) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_name"] = "Libero_Floor_Manipulation"
        info = {"problem_name": "libero_floor_manipulation", "domain_name": "robosuite"}
        data.attrs["problem_info"] = json.dumps(info | {"language_instruction": language})
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["bddl_file_name"] = (
            "chiliocosm/bddl_files/libero_object/" + path.stem.removesuffix("_demo") + ".bddl"
        )
        data.attrs["num_demos"], data.attrs["total"], data.attrs["tag"] = len(steps), sum(steps), "libero-v1"
        for number, count in enumerate(steps):
            write_demo(data, f"demo_{number}", count, side)
    return path


def settings(tmp_path: Path, source: Path | None = None, **changes) -> LiberoImportConfig:
    return LiberoImportConfig(source=[source or tmp_path / "source"], out=tmp_path / "data", **changes)


@pytest.fixture
def source(tmp_path) -> Path:
    """One file of three small demonstrations."""
    (tmp_path / "source").mkdir()
    return write_file(tmp_path / "source" / NAME, side=32)


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Two files, imported by the command line."""
    root = tmp_path_factory.mktemp("libero")
    (root / "downloads").mkdir()
    write_file(root / "downloads" / NAME)
    other = root / "downloads" / "KITCHEN_SCENE10_close_the_top_drawer_demo.hdf5"
    write_file(other, (4,), language="Close the top layer")
    line = f"import libero --source {root / 'downloads'} --out {root / 'data'} --val_share 0.5"
    assert main(line.split()) == 0
    return root / "data"


def test_episodes_have_our_keys_numbers_and_pictures_the_right_way_up(imported):
    data = open_dataset(imported)
    assert data.fps == 20
    assert data.cameras == keys.IMAGES
    assert [len(episode) for episode in data.episodes] == [4, 6, 5, 7]
    assert [episode.split for episode in data.episodes] == ["train", "train", "val", "train"]
    assert {episode.task for episode in data.episodes} == {SENTENCE, "Close the top layer"}
    with h5py.File(imported.parent / "downloads" / NAME) as file:
        demo = file["data/demo_1"]
        rows = slice(data.episodes[2].start, data.episodes[2].stop)
        np.testing.assert_allclose(data.action[rows], demo["actions"], atol=1e-6)
        np.testing.assert_allclose(data.state[rows, :6], demo["obs/ee_states"], atol=1e-6)
        np.testing.assert_allclose(data.state[rows, 6:], demo["obs/gripper_states"], atol=1e-6)
    for camera, shade in zip(keys.IMAGES, (0, 20), strict=True):
        picture = data.frames(2, camera)[3].astype(int)
        corners = [picture[r, c].mean() for r in (16, 112) for c in (16, 112)]
        turned = [COLOURS[name] + shade for name in ("bottom right", "bottom left", "top right", "top left")]
        np.testing.assert_allclose(corners, turned, atol=4)


def test_what_it_came_from_is_kept(imported, capsys):
    record = json.loads((imported / "meta/fovea.json").read_text())
    assert record["import"]["format"] == "libero_hdf5"
    assert record["render"]["stock"]
    assert record["render"]["image_size"] == 128
    assert 'its name (and evaluations) "close the top drawer"' in record["notes"][0]
    assert open_dataset(imported).episodes[3].record["start"] == {"file": NAME, "demo": "demo_2"}


def test_a_policy_trains_from_it(imported, tmp_path, capsys):
    line = f"train --dataset {imported} --out {tmp_path} --steps 1 --batch_size 2 --policy.n_layers 1"
    assert main(line.split()) == 0
    assert "1 steps" in capsys.readouterr().out
    assert (tmp_path / "checkpoints/last/pretrained_model/model.safetensors").is_file()


def test_an_import_that_was_stopped_reads_only_what_is_missing(source, tmp_path, monkeypatch):
    read, arrays = [], import_libero.arrays

    def stop_at_the_second(file, demo, **options):
        if len(read) == 1:
            raise KeyboardInterrupt
        read.append(demo.name)
        return arrays(file, demo, **options)

    monkeypatch.setattr(import_libero, "arrays", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        import_libero.run(settings(tmp_path), progress=False)
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr(import_libero, "arrays", lambda *a, **o: (read.append(a[1].name), arrays(*a, **o))[1])
    summary = import_libero.run(settings(tmp_path), progress=False)
    assert read == ["demo_0", "demo_1", "demo_2"]
    assert (summary["episodes"], summary["frames"], summary["refused"]) == (3, 18, [])

    assert import_libero.run(settings(tmp_path), progress=False) == summary
    with pytest.raises(FoveaError, match="pairing"):
        import_libero.run(settings(tmp_path, pairing="causal"), progress=False)


def test_a_picture_can_be_paired_with_the_action_that_followed_it(source, tmp_path):
    import_libero.run(settings(tmp_path, pairing="causal", episodes=1), progress=False)
    data = open_dataset(tmp_path / "data")
    with h5py.File(source) as file:
        np.testing.assert_allclose(data.action, file["data/demo_0/actions"][1:], atol=1e-6)
        np.testing.assert_allclose(data.state[:, :6], file["data/demo_0/obs/ee_states"][:-1], atol=1e-6)


def test_orientations_are_written_down_as_in_the_files():
    from robosuite.utils.transform_utils import quat2axisangle

    for quaternion in np.random.default_rng(0).normal(size=(50, 4)):
        w, x, y, z = quaternion / np.linalg.norm(quaternion)
        np.testing.assert_allclose(
            axis_angle(np.array([w, x, y, z])), quat2axisangle(np.array([x, y, z, w])), atol=1e-9
        )


@pytest.mark.parametrize(
    ("info", "choice", "sentence"),
    [
        (None, "stored", SENTENCE),
        ("{not json", "stored", SENTENCE),
        ('{"language_instruction": "Pick the milk"}', "stored", "Pick the milk"),
        ('{"language_instruction": "Pick the milk"}', "file_name", SENTENCE),
    ],
)
def test_the_instruction_is_the_stored_one_or_spelt_by_the_file_name(
    source, tmp_path, info, choice, sentence
):
    with h5py.File(source, "r+") as file:
        del file["data"].attrs["problem_info"]
        if info is not None:
            file["data"].attrs["problem_info"] = info
    import_libero.run(settings(tmp_path, instruction=choice, episodes=1), progress=False)
    assert open_dataset(tmp_path / "data").episodes[0].task == sentence


def replace(file: h5py.File, key: str, value) -> None:
    del file[key]
    if value is not None:
        file[key] = value


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("obs/agentview_rgb", None, "demo_1: expected obs/agentview_rgb, found none"),
        ("actions", np.zeros((5, 6)), r"demo_1: expected actions \(5, 7\)"),
        ("actions", np.full((5, 7), 1.5), r"demo_1: expected actions in \[-1, 1\], got 1.500"),
        ("actions", np.full((5, 7), np.nan), "demo_1: expected finite actions"),
        ("obs/ee_states", np.full((5, 6), 9.0), "demo_1: .* axis-angle"),
        ("obs/gripper_states", np.zeros((4, 2)), "demo_1: expected obs/gripper_states"),
        ("obs/eye_in_hand_rgb", np.zeros((5, 64, 64, 3), np.uint8), "demo_1: expected obs/eye_in_hand_rgb"),
        ("obs/agentview_rgb", np.zeros((5, 32, 32, 3), np.float32), "demo_1: .* uint8"),
    ],
)
def test_a_bad_demonstration_is_named_and_can_be_left_out(source, tmp_path, key, value, message):
    with h5py.File(source, "r+") as file:
        replace(file, f"data/demo_1/{key}", value)
    with pytest.raises(FoveaError, match=f"{NAME} {message}"):
        import_libero.run(settings(tmp_path), progress=False)
    assert not (tmp_path / "data").exists()
    summary = import_libero.run(settings(tmp_path, skip_bad=True), progress=False)
    assert summary["episodes"] == 2
    assert [sentence.split(":")[0] for sentence in summary["refused"]] == [f"{NAME} demo_1"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(b"not HDF5 at all" * 100), "no whole HDF5 file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-5000]), "no whole HDF5 file .*truncated"),
        (lambda path: h5py.File(path, "w").close(), "expected a group `data`"),
        (lambda path: path.unlink(), "found none"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_nothing_is_written(source, tmp_path, damage, message):
    damage(source)
    with pytest.raises(FoveaError, match=message):
        import_libero.run(settings(tmp_path), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_pictures_of_two_sizes_are_refused(source, tmp_path):
    write_file(source.with_name("open_the_drawer_demo.hdf5"), (3,), side=64)
    with pytest.raises(FoveaError, match=r"sides of \[32, 64\]"):
        import_libero.run(settings(tmp_path), progress=False)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("import", "LIBERO's official demonstrations"),
        ("import libero", "--source"),
        ("import libero --source nowhere", "nowhere"),
        ("import libero --source . --val_share 2", "val_share"),
        ("import robomimic", "It knows: libero"),
    ],
)
def test_calls_that_cannot_work_are_answered(line, hint, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) in (0, 2)
    said = capsys.readouterr()
    assert hint in said.out + said.err
    assert list(tmp_path.iterdir()) == []
