"""A slice of ``tests/fuzz/fuzz_documents.py``, and the proof that children and canary notice what is done."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fuzz"))

import canary as canaries
import children
import fuzz_documents

pytest.importorskip("datasets")


@pytest.mark.slow
def test_senseless_documents_end_in_an_answer_or_an_error_that_helps() -> None:
    kinds = list(fuzz_documents.KINDS)
    work = [(kinds[place % len(kinds)], place // len(kinds)) for place in range(48)]
    found = children.run(fuzz_documents.__file__, work, seed=20261130)
    assert len(found) == 48
    assert [one for one in found if one.outcome not in ("right", "error")] == []


@pytest.mark.parametrize("touch", ["write", "chmod", "remove", "beside", "same", "read", "list"])
def test_the_canary_notices(touch: str, tmp_path: Path) -> None:
    canary = canaries.Canary(tmp_path / "canary")
    assert canary.touched() is None
    secret = canary.place / "secret"
    if touch == "write":
        secret.write_text("x")
    elif touch == "chmod":
        secret.chmod(0o777)
    elif touch == "remove":
        (canary.place / "link").unlink()
    elif touch == "beside":
        (tmp_path / "new").write_text("")
    elif touch == "read":
        secret.read_bytes()
    elif touch == "list":
        list((canary.place / "pixels").iterdir())
    else:
        secret.write_bytes(secret.read_bytes())
    assert canary.touched() is not None
    assert canary.touched() is None
    canary.close()


def test_a_child_that_dies_takes_no_other_input_with_it(tmp_path: Path) -> None:
    script = tmp_path / "planted.py"
    script.write_text(
        "import os, sys\n"
        f"sys.path.insert(0, {str(Path(children.__file__).parent)!r})\n"
        "from children import main\n"
        "sys.exit(main(__file__, {'a': lambda rng, folder: None, 'b': lambda rng, folder: os.abort()}, ''))\n"
    )
    found = children.run(str(script), [("a", 0), ("b", 0), ("a", 1), ("b", 1), ("a", 2)], seed=0)
    assert [one.outcome[:18] for one in found] == ["right", "the process: died:"] * 2 + ["right"]
