"""What is read on the workbench is asked what it is after it was opened, as on the device."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.runtime.test_regular_files import exchanged

pytestmark = [pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name"), pytest.mark.slow]
PATH = "from pathlib import Path; "


READS = [
    ("from edgetl.data.dataset import load_photos", "load_photos(Path(sys.argv[1], '{}.tar'))"),
    ("from edgetl.data.image_files import _shrunk", "print(_shrunk(Path(sys.argv[1], '{}.jpg')), 'no pipe or')"),
    ("from edgetl.models.weight_files import read_state", "read_state(Path(sys.argv[1], '{}.pth'))"),
    ("from edgetl.models.weight_files import read_state", "read_state(Path(sys.argv[1], '{}.safetensors'))"),
    ("from edgetl.models.checkpoint import load_labels", "load_labels(Path(sys.argv[1], '{}'))"),
    ("from edgetl.recipe import read_recipe", "read_recipe(Path(sys.argv[1], '{}'))"),
    ("from edgetl.verify.gate.limits import read_gate", "read_gate(Path(sys.argv[1], '{}'))"),
    (
        "from edgetl.studies.result_key import read_kept",
        "read_kept(Path(sys.argv[1], '{}'), 'x', dict, fix='remove it')",
    ),
    ("from edgetl.studies.result_key import _digest", "_digest(Path(sys.argv[1], '{}'))"),
]


@pytest.mark.parametrize("kind", ["pipe", "zero"])
def test_a_file_that_is_exchanged_after_the_look(kind: str, tmp_path: Path) -> None:
    said = exchanged(tmp_path, *((PATH + imports, what.format(kind)) for imports, what in READS))
    assert len(said) == len(READS)
    for (_, what), line in zip(READS, said, strict=True):
        assert "pipe or" in line, what
