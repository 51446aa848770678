"""FAULTS 3, 4, 25, 28, 29, 30: model folders that are damaged, unsafe or do not fit are refused; nothing is ever unpickled."""

import json
import pickle
import resource
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from afno_forecast import model_folder, model_summary
from afno_forecast.errors import CheckpointError, ResourceError
from afno_forecast.experiment import load_experiment, run_training


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model, tmp_path / "model"))


def rewrite(folder: Path, **changes: object) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.update(changes)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_sound_folder_loads_and_describes_itself(model: Path) -> None:
    forecaster = model_folder.load(model)
    assert forecaster.channels.shorts == ("z500", "t2m", "u250") and forecaster.time_step == 21600
    text = model_summary.describe(model)
    assert "7x12 global" in text and "geopotential@500" in text and "m2 s-2" in text


@pytest.mark.parametrize("name", ["model.safetensors", "statistics.nc", "config.yaml", "README.md"])
def test_one_flipped_bit_in_any_file_is_found(name: str, model: Path) -> None:
    content = bytearray((model / name).read_bytes())
    content[len(content) * 2 // 3] ^= 4
    (model / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{name} was altered or damaged: sha256 is") as error:
        model_folder.load(model)
    assert error.value.exit_code == 4 and str(model / name) in str(error.value)


def test_a_missing_file_or_manifest_is_named(model: Path) -> None:
    (model / "statistics.nc").unlink()
    with pytest.raises(CheckpointError, match=r"statistics.nc is missing"):
        model_folder.load(model)
    (model / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="not a complete model"):
        model_folder.load(model)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "sub/file", ".."])
def test_a_manifest_that_names_a_file_outside_is_refused(name: str, model: Path) -> None:
    files = json.loads((model / "manifest.json").read_text())["files"]
    rewrite(model, files={**files, name: {"bytes": 1, "sha256": "0" * 64}})
    with pytest.raises(CheckpointError, match="names a file outside the folder"):
        model_folder.load(model)


def test_a_link_in_the_folder_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "README.md").rename(tmp_path / "elsewhere.md")
    (model / "README.md").symlink_to(tmp_path / "elsewhere.md")
    with pytest.raises(CheckpointError, match="not a plain file"):
        model_folder.load(model)


def test_a_newer_format_says_which_version_is_needed(model: Path) -> None:
    rewrite(model, format=99, version="9.9.9")
    with pytest.raises(CheckpointError, match=r"format 99(.|\n)*written by version 9.9.9"):
        model_folder.load(model)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was read",))


def test_a_pickle_in_place_of_weights_is_never_read(model: Path) -> None:
    (model / "model.safetensors").write_bytes(pickle.dumps(Bomb()))
    model_folder.write_manifest(model, model_folder.FILES)
    with pytest.raises(CheckpointError, match="the weights cannot be read"):
        model_folder.load(model)
    with pytest.raises(CheckpointError, match="header is damaged"):
        model_summary.describe(model)


@pytest.mark.parametrize("header", [b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}', b"not json", b"[]"])
def test_a_header_that_lies_is_refused_before_allocation(header: bytes, model: Path) -> None:
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 16)
    model_folder.write_manifest(model, model_folder.FILES)
    with pytest.raises(CheckpointError):
        model_folder.load(model)


def test_partial_or_foreign_weights_are_refused_with_names(model: Path) -> None:
    path = str(model / "model.safetensors")
    weights = load_file(path)
    name = next(k for k in sorted(weights) if "backbone" in k)
    weights["stranger"] = torch.ones(2)
    save_file({k: v for k, v in weights.items() if k != name}, path)
    model_folder.write_manifest(model, model_folder.FILES)
    with pytest.raises(CheckpointError, match=r"1 missing .* 1 extra .*stranger"):
        model_folder.load(model)


@pytest.mark.parametrize("moment", ["before the new one is whole", "between the two renames", "before the old one is removed"])
def test_a_save_killed_at_any_moment_leaves_a_model(moment: str, model: Path) -> None:
    old, partial = model.with_name(".model.replaced"), model.with_name(".model.partial")
    shutil.copytree(model, partial)
    (partial / "README.md").write_text("# new\n")
    model_folder.write_manifest(partial, model_folder.FILES)
    if moment == "before the new one is whole":
        (partial / "manifest.json").unlink()
        model.rename(old)
    elif moment == "between the two renames":
        model.rename(old)
    else:
        model.rename(old)
        partial.rename(model)
    model_folder.load(model)
    expected = "# tiny" if moment == "before the new one is whole" else "# new"
    assert (model / "README.md").read_text().startswith(expected)


def test_a_model_that_is_being_saved_is_left_to_its_saver(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process looks for the model when all its files are there and the folder has not its name yet."""
    new, flush, looks = tmp_path / "new", model_folder.fsync_folder, list[str]()

    def look(folder: Path) -> None:
        if folder.name == ".new.partial":
            with pytest.raises(CheckpointError, match="not a complete model") as refused:
                model_folder.load(new)
            looks.append(refused.value.where)
        flush(folder)

    monkeypatch.setattr(model_folder, "fsync_folder", look)
    inputs, weights = model_folder.read_inputs(model), model_folder.load(model).state_dict()
    model_folder.save(new, config_text=(model / "config.yaml").read_text(), inputs=inputs, weights=weights, card="# new\n")
    assert len(looks) == 1 and model_folder.load(new).channels.shorts and not new.with_name(".new.partial").exists()


def test_what_a_user_set_aside_stays(model: Path) -> None:
    for name in ("model.old", "model.partial"):
        shutil.copytree(model, model.with_name(name))
    inputs, weights = model_folder.read_inputs(model), model_folder.load(model).state_dict()
    model_folder.save(model, config_text=(model / "config.yaml").read_text(), inputs=inputs, weights=weights, card="# again\n")
    assert sorted(p.name for p in model.parent.iterdir()) == ["model", "model.old", "model.partial"]
    assert (model.with_name("model.old") / "README.md").read_text().startswith("# tiny")
    shutil.rmtree(model)
    with pytest.raises(CheckpointError):
        model_folder.load(model)


def test_saving_over_a_model_keeps_one_of_the_two_whole(model: Path) -> None:
    forecaster = model_folder.load(model)
    inputs, weights = model_folder.read_inputs(model), forecaster.state_dict()
    model_folder.save(model, config_text=(model / "config.yaml").read_text(), inputs=inputs, weights=weights, card="# again\n")
    assert (model / "README.md").read_text() == "# again\n"
    assert sorted(p.name for p in model.parent.iterdir()) == ["model"]
    again = model_folder.load(model)
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), weights.values(), strict=True))


@pytest.mark.parametrize(("limit", "words"), [(0, "File too large"), (4000, "NetCDF"), (20_000, "serializ")], ids=["text", "netCDF", "weights"])
def test_a_full_disk_while_the_model_is_written_is_told_and_the_older_model_is_intact(limit: int, words: str, model: Path, tiny_experiment: Path,
                                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    """No file may grow beyond the limit while the model of the first validation is written in the place of an older one."""
    original, before = model_folder.save, (model / "manifest.json").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(folder: Path, **parts: object) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
        try:
            original(model, **parts)  # type: ignore[arg-type]
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(model_folder, "save", full)
    with pytest.raises(ResourceError, match=f"the model folder could not be written: .*{words}") as error:
        run_training(load_experiment(tiny_experiment, ["training.budget.train_steps=2"]), resume=False, echo=[].append)
    assert error.value.exit_code == 5 and ".model.partial" in error.value.where and "an older model is intact" in error.value.fix
    assert not (model.with_name(".model.partial") / "manifest.json").exists()
    assert (model / "manifest.json").read_bytes() == before
    assert model_folder.load(model).channels.shorts == ("z500", "t2m", "u250")
