from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgetl.data.yolo_yaml import read_yolo_yaml
from edgetl_runtime.errors import DataError, MissingDependency


def written(folder: Path, text: str) -> Path:
    file = folder / "data.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "names",
    [
        "names: [no, 'it''s', 1e3]",
        "names:\n- no\n- it's\n- 1e3",
        "names:\n  1: it's\n  0: no\n  2: 1e3",
        "names: {0: no, 1: it's,\n  2: 1e3}",
        'names: [no,  # the first\n  "it\'s",\n  1e3]',
    ],
)
def test_names_are_texts_however_they_are_written(tmp_path: Path, names: str) -> None:
    assert read_yolo_yaml(written(tmp_path, f"nc: 3\n{names}\n"))[1] == ("no", "it's", "1e3")


def test_what_the_tools_of_yolo_write_besides_is_passed_over(tmp_path: Path) -> None:
    text = """# a data set
path: ../datasets/cells  # its root
train: [images/a, images/b]
val: images/val
test: # optional
names:
  0: cell
download: |
  from pathlib import Path
  names: not these
    dir = Path(yaml['path'])
roboflow: {workspace: a, project: b}
"""
    keys, names = read_yolo_yaml(written(tmp_path, text))
    assert names == ("cell",)
    assert keys["path"] == ["../datasets/cells"]
    assert keys["train"] == ["images/a", "images/b"]
    assert keys["test"] == []
    assert keys["roboflow"] == []


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("nc: 1\nnames: [a, b\n", ":3: no YAML: "),
        ("nc: 1\n\tnames: [a]\n", ":2: no YAML: "),
        ("nc: 2\nnames: cells\n", ":2: names is 'cells', not a list"),
        ("names:\n  0: a\n  2: b\n", ":2: the numbers of the names have gaps"),
        ("names:\n  0: a\n  first: b\n", ":3: not the number of a name: 'first'"),
        ("names:\n  0: a\n  0: b\n  1: c\n", ":3: the number 0 has two names"),
        ("names:\n  [0]: a\n", ":2: not the number of a name: a sequence"),
        ("names:\n- a\n- [b]\n", ":3: not a name: a sequence"),
        ("names:\n- a\n-\n", ":3: not a name: ''"),
        ("names: [a\0]\n", ": no YAML: unacceptable character #x0000: special characters are not allowed\n  fix: "),
        ("- a\n", ":1: there are no keys"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, line: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(DataError) as error:
        read_yolo_yaml(file)
    assert f"{file}{line}" in str(error.value)


def test_nothing_in_it_is_run_and_anchors_stay_small(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    names = f"names: !!python/object/apply:os.mkdir [{trap}]\nval: &v images\ntrain: *v\n"
    keys, labels = read_yolo_yaml(written(tmp_path, names))
    assert (keys, labels) == ({"val": ["images"], "train": ["images"]}, (str(trap),))
    assert not trap.exists()
    lines = ["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12))]
    with pytest.raises(DataError, match="not a name: a sequence"):
        read_yolo_yaml(written(tmp_path, "\n".join([*lines, "names: [*a11]"])))


def test_deeply_nested_brackets_end_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_yolo_yaml(written(tmp_path, "names: " + "[" * 5000))


def test_without_pyyaml_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(MissingDependency, match=r"edgetl\[yaml\]"):
        read_yolo_yaml(written(tmp_path, "names: [a]"))
