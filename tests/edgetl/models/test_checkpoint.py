from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from edgetl.models.backbones import build, preset
from edgetl.models.checkpoint import Checkpoint, load_labels
from edgetl_runtime.errors import CheckpointError, OutputError
from edgetl_runtime.manifest import Label, Preprocess

NAME = "squeezenet1_1"
LABELS = (Label("a", "Aster"), Label("b", "Bellis"), Label("c", "Crocus"))


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(2)
    spec, normal = preset(NAME, 64)
    return Checkpoint.of(
        build(NAME, 3), backbone=NAME, labels=LABELS, preprocess=spec, normalize=normal, training={"epochs": 3}
    )


def test_it_rebuilds_itself(tmp_path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.save(tmp_path / "deep" / "flowers")
    again = Checkpoint.load(tmp_path / "deep" / "flowers")
    assert (again.backbone, again.labels, again.preprocess, again.normalize, again.training) == (
        checkpoint.backbone,
        checkpoint.labels,
        checkpoint.preprocess,
        checkpoint.normalize,
        checkpoint.training,
    )
    assert again.sha256 == checkpoint.sha256
    image = torch.rand(2, 3, 64, 64)
    one, two = checkpoint.build(), again.build()
    assert not two.training
    assert torch.equal(one(image), two(image))
    assert sorted(item.name for item in (tmp_path / "deep").iterdir()) == ["flowers"]


def test_it_is_a_copy_of_the_model() -> None:
    model = build(NAME, 3)
    spec, normal = preset(NAME, 64)
    taken = Checkpoint.of(model, backbone=NAME, labels=LABELS, preprocess=spec, normalize=normal)
    before = taken.sha256
    with torch.no_grad():
        next(model.parameters()).zero_()
    again = Checkpoint.of(model, backbone=NAME, labels=LABELS, preprocess=spec, normalize=normal)
    assert taken.sha256 == before != again.sha256


def test_it_is_not_overwritten_unless_forced(tmp_path: Path, checkpoint: Checkpoint) -> None:
    checkpoint.save(tmp_path / "c")
    with pytest.raises(OutputError, match="exists"):
        checkpoint.save(tmp_path / "c")
    checkpoint.save(tmp_path / "c", force=True)
    assert Checkpoint.load(tmp_path / "c").sha256 == checkpoint.sha256
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").touch()
    with pytest.raises(OutputError, match=r"has no checkpoint\.json and is not replaced"):
        checkpoint.save(tmp_path / "photos", force=True)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        checkpoint.save(tmp_path / "file" / "c")
    assert sorted(item.name for item in tmp_path.iterdir()) == ["c", "file", "photos"]


def test_a_failed_replacement_leaves_the_old_one(
    tmp_path: Path, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path / "c")

    def full(*_: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("edgetl_export.renaming._renameat2", full)
    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OutputError, match="No space"):
        checkpoint.save(tmp_path / "c", force=True)
    assert Checkpoint.load(tmp_path / "c").sha256 == checkpoint.sha256
    assert [item.name for item in tmp_path.iterdir()] == ["c"]


def test_a_damaged_checkpoint_is_refused(tmp_path: Path, checkpoint: Checkpoint) -> None:
    folder = tmp_path / "c"
    with pytest.raises(CheckpointError, match="does not exist"):
        Checkpoint.load(folder)
    with pytest.raises(CheckpointError, match="is not a checkpoint"):
        Checkpoint.load(tmp_path)
    checkpoint.save(folder)
    about = json.loads((folder / "checkpoint.json").read_text())
    for damage in ({"schema": 2}, {"labels": [1]}, {"preprocess": {"size": 1}}, {"normalize": None}, {"sha256": "0"}):
        (folder / "checkpoint.json").write_text(json.dumps(about | damage))
        with pytest.raises(CheckpointError):
            Checkpoint.load(folder)
    (folder / "checkpoint.json").write_text(json.dumps(about))
    raw = bytearray((folder / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (folder / "model.safetensors").write_bytes(raw)
    with pytest.raises(CheckpointError, match="not the file that was saved"):
        Checkpoint.load(folder)


@pytest.mark.parametrize(
    "damage",
    [
        *('{"schema": 1}', "[]", "1e999", '{"schema": true}', "[" * 50_000, '{"schema": "\\ud800"}', "\x00"),
        *({"preprocess": {"resize": 1, "crop": [10**9, 10**9]}}, {"preprocess": {"resize": -5, "crop": [4, 4]}}),
        *({"preprocess": {"resize": "a", "crop": None}}, {"labels": []}, {"labels": [{"id": "a", "name": "a"}]}),
        *({"labels": [{"id": "", "name": ""}] * 3}, {"labels": [{"id": "a", "name": "x"}] * 3}, {"hidden": -1}),
        *({"hidden": 10**9}, {"normalize": {"mean": [0.5], "std": [0.1]}}, {"training": None}, {"backbone": 3}),
        {"normalize": {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.0, 0.1]}},
    ],
)
def test_senseless_values_are_refused(tmp_path: Path, checkpoint: Checkpoint, damage: str | dict[str, object]) -> None:
    checkpoint.save(tmp_path / "c")
    about = tmp_path / "c" / "checkpoint.json"
    text = damage if isinstance(damage, str) else json.dumps(json.loads(about.read_text()) | damage)
    about.write_text(text)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(tmp_path / "c")
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "text"),
    [
        *(("l.json", "[" * 50_000), ("l.json", '["a", "\\ud800"]'), ("l.json", "[NaN, 1]"), ("l.json", '["a"]')),
        *(("l.json", '[{"id": "a", "name": ""}, {"id": "b", "name": "b"}]'), ("l.txt", "one\n"), ("l.txt", "\n \n")),
        *(("l.json", '[{"id": " "}, {"id": "b"}]'), ("l.json", "{}"), ("l.json", '["a", "a"]')),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(CheckpointError) as caught:
        load_labels(tmp_path / name)
    assert caught.value.fix


def test_labels_are_read_from_regular_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "latin1.txt").write_bytes(b"caf\xe9\nb\n")
    for name, said in (
        ("pipe.txt", "no regular file"),
        ("missing.txt", "No such file"),
        ("latin1.txt", "not UTF-8"),
        (".", "directory"),
    ):
        with pytest.raises(CheckpointError, match=said):
            load_labels(tmp_path / name)


def test_a_plain_state_dict_becomes_a_checkpoint(tmp_path: Path) -> None:
    model = build(NAME, 3).eval()
    file = tmp_path / "w.safetensors"
    save_file(model.state_dict(), file)
    plain = Checkpoint.from_weights(file, backbone=NAME)
    assert [label.id for label in plain.labels] == ["0", "1", "2"]
    assert plain.preprocess == Preprocess(256, (224, 224))
    named = Checkpoint.from_weights(file, backbone=NAME, labels=LABELS, image_size=64)
    assert (named.labels, named.preprocess.crop) == (LABELS, (64, 64))
    image = torch.rand(1, 3, 64, 64)
    assert torch.equal(named.build()(image), model(image))
    with pytest.raises(CheckpointError, match="3 logits, but there are 2 labels"):
        Checkpoint.from_weights(file, backbone=NAME, labels=LABELS[:2])


@pytest.mark.data
def test_the_real_weights_load_as_float32(edgetl_data: Path) -> None:
    file = edgetl_data / "weights" / "efficientnet_b0_flowers.safetensors"
    found = Checkpoint.from_weights(file, backbone="efficientnet_b0", image_size=160)
    assert (len(found.labels), found.preprocess) == (5, Preprocess(183, (160, 160), "bicubic"))
    assert found.state["classifier.1.weight"].dtype == torch.float32
    with pytest.raises(CheckpointError, match="--backbone efficientnet_b0"):
        Checkpoint.from_weights(file, backbone="mobilenet_v2")


def test_labels_from_json_and_text(tmp_path: Path) -> None:
    file = tmp_path / "labels.json"
    file.write_text(json.dumps([{"id": "n1", "name": "crane"}, {"id": "n2", "name": "crane"}]))
    assert load_labels(file) == (Label("n1", "crane"), Label("n2", "crane"))
    file.write_text('["rose", "tulip"]')
    text = tmp_path / "labels.txt"
    text.write_text("rose\r\n\ntulip\n")
    assert load_labels(file) == load_labels(text) == (Label("rose", "rose"), Label("tulip", "tulip"))


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["crane", "heron", "crane"], ["0", "heron", "2"]),
        (["maillot", "maillot", "a", "b"], ["0", "1", "a", "b"]),
        (["a", "b", "b", "a", "c"], ["0", "1", "2", "3", "c"]),
    ],
)
def test_names_may_be_there_twice(names: list[str], ids: list[str], tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text(json.dumps(names))
    (tmp_path / "labels.txt").write_text("\n".join(names))
    wanted = tuple(Label(id_, name) for id_, name in zip(ids, names, strict=True))
    assert load_labels(tmp_path / "labels.json") == load_labels(tmp_path / "labels.txt") == wanted


def test_an_id_that_is_somebodys_place(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("crane\ncrane\n1\n")
    with pytest.raises(CheckpointError, match="gives labels twice: 1"):
        load_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize("text", ['{"a": 1}', "[1, 2]", '[{"name": "x"}]', "[]", '["a", "a"]', "[", "null"])
def test_bad_labels_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "labels.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"labels\.json"):
        load_labels(tmp_path / "labels.json")
