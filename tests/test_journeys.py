"""Three people and what they do, as scripts: an ML engineer, an app on a device, a release.

Each line is typed as the pages have it, in a folder of its own. The engineer's bundle is made once; the app gets the
file that was packed for it, the release the bundle. What runs on the device cannot import torch or the workbench.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

for _library in ("litert_torch", "ai_edge_litert", "jinja2", "matplotlib"):
    pytest.importorskip(_library)

ROOT = Path(__file__).parents[1]
COLOURS = {"daisy": (220, 220, 200), "roses": (190, 30, 60), "sky": (40, 90, 200)}
SIZE = (80, 60)

RUN = (
    "edgetl run --data photos --backbone shufflenet_v2_x0_5 --weights none --image-size 64 --augment none "
    "--strategy full --epochs 8 --batch-size 8 --lr 0.003 --targets tflite --precisions fp32,int8 --keep-reference "
    "--no-photos --out flowers.edgetl"
)
PACK = "edgetl pack flowers.edgetl --variants tflite.int8 --out pi.edgetl"

WITHOUT_WORKBENCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision", "edgetl", "edgetl_export", "sklearn"):
            raise ModuleNotFoundError(f"a device has no {name}", name=name)

sys.meta_path.insert(0, Refuse())
"""


@dataclass(frozen=True)
class Place:
    """A folder in which somebody types."""

    folder: Path

    def run(self, line: str, *, expect: int = 0) -> str:
        """What `line` prints, on either stream. It must end with exit code `expect`."""
        program, *words = line.split()
        module = {"edgetl": "edgetl", "edgetl-run": "edgetl_runtime"}[program]
        return self._done([sys.executable, "-m", module, *words], expect)

    def device(self, line: str) -> str:
        """The same where there is neither torch nor the workbench."""
        program, *words = line.split()
        assert program == "edgetl-run"
        return self.script(f"from edgetl_runtime.cli import main\nsys.exit(main({words!r}))")

    def script(self, text: str) -> str:
        """What a script prints on a device."""
        return self._done([sys.executable, "-c", WITHOUT_WORKBENCH + text], 0)

    def _done(self, command: list[str], expect: int) -> str:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, timeout=300)
        assert done.returncode == expect, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr


def write_photos(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for label, colour in COLOURS.items():
        for split, photos in {"train": 24, "val": 10}.items():
            (folder / split / label).mkdir(parents=True)
            for index in range(photos):
                noise = rng.normal(colour, 30, (SIZE[1], SIZE[0], 3)).clip(0, 255)
                Image.fromarray(noise.astype(np.uint8)).save(folder / split / label / f"{index}.jpg")


def python_of(page: str, heading: str, number: int = 0) -> str:
    """A block of Python of a page, below a heading."""
    text = (ROOT / page).read_text(encoding="utf-8").partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[number]


@pytest.fixture(scope="module")
def engineer(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The engineer's folder: photos, the bundle of a run, and what was packed of it for a Raspberry Pi."""
    place = Place(tmp_path_factory.mktemp("engineer"))
    write_photos(place.folder / "photos")
    place.run(RUN)
    place.run(PACK)
    return place


def test_the_engineer_goes_from_photos_to_a_prediction_without_torch(engineer: Place, tmp_path: Path) -> None:
    report = json.loads((engineer.folder / "flowers.edgetl" / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"]["passed"]
    assert report["reference"]["top1"] > 0.9
    packed = engineer.folder / "pi.edgetl"
    assert packed.stat().st_size < sum(
        file.stat().st_size for file in (engineer.folder / "flowers.edgetl").rglob("*") if file.is_file()
    )
    pi = Place(tmp_path)
    shutil.copyfile(packed, tmp_path / "pi.edgetl")
    for label in COLOURS:
        shutil.copyfile(engineer.folder / "photos" / "val" / label / "9.jpg", tmp_path / f"{label}.jpg")
    assert "self-test" in pi.device("edgetl-run self-test pi.edgetl")
    pi.device("edgetl-run predict pi.edgetl daisy.jpg roses.jpg sky.jpg --json answers.json")
    answers = json.loads((tmp_path / "answers.json").read_text(encoding="utf-8"))
    assert answers["variant"] == "tflite.int8"
    best = [image["scores"][0]["name"] for image in answers["predictions"]]
    assert best == ["daisy", "roses", "sky"]
    with pytest.raises(AssertionError, match="a device has no torch"):
        pi.script("import torch")


def test_an_app_answers_uploads_and_a_camera(engineer: Place, tmp_path: Path) -> None:
    for library in ("fastapi", "httpx", "multipart", "cv2"):
        pytest.importorskip(library)
    app = Place(tmp_path)
    shutil.copyfile(engineer.folder / "pi.edgetl", tmp_path / "flowers.edgetl")
    shutil.copyfile(engineer.folder / "photos" / "val" / "roses" / "0.jpg", tmp_path / "photo.jpg")
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "service.py").write_text(python_of("runtime/README.md", "A service, and its test"))
    said = app.script(
        "sys.path.insert(0, '.')\n"
        "from fastapi.testclient import TestClient\n"
        "from service import create\n"
        "client = TestClient(create())\n"
        "for name in ('photo.jpg', 'notes.txt'):\n"
        "    with open(name, 'rb') as upload:\n"
        "        answer = client.post('/predict', files={'photo': upload})\n"
        "    print(answer.status_code, answer.text)\n"
    )
    first, second = [line for line in said.splitlines() if line[:3] in ("200", "422")]
    scores = json.loads(first.partition(" ")[2])
    assert max(scores, key=scores.__getitem__) == "roses"
    assert second.startswith('422 {"detail":"cannot read the image')
    write_film(tmp_path / "door.avi", COLOURS["sky"])
    named = app.script(python_of("runtime/README.md", "A camera"))
    assert named.count("sky") == 5
    app.script(python_of("runtime/README.md", "A camera", 1))
    with Image.open(tmp_path / "seen.jpg") as frame:
        assert frame.size == SIZE


def write_film(path: Path, colour: tuple[int, int, int]) -> None:
    import cv2

    film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, SIZE)
    for _ in range(5):
        film.write(np.full((SIZE[1], SIZE[0], 3), colour[::-1], np.uint8))
    film.release()


WRITE = "edgetl verify flowers.edgetl --data photos --write-gate gate.toml --json accepted.json"
HOLD = "edgetl verify flowers.edgetl --data photos --gate gate.toml --baseline accepted.json --markdown summary.md"


def test_a_release_passes_unchanged_and_busy_and_fails_damaged(engineer: Place, tmp_path: Path) -> None:
    release = Place(tmp_path)
    shutil.copytree(engineer.folder / "flowers.edgetl", tmp_path / "flowers.edgetl")
    for name in ("checkpoint.json", "model.safetensors"):  # the CI has the original's answers, and no need of torch
        (tmp_path / "flowers.edgetl" / "reference" / name).unlink()
    shutil.copytree(engineer.folder / "photos", tmp_path / "photos")
    release.run(WRITE)
    for words in (["init", "-q"], ["add", "gate.toml", "accepted.json"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    identity = ["-c", "user.name=release", "-c", "user.email=release@example.org"]
    subprocess.run(["git", *identity, "commit", "-q", "-m", "accepted"], cwd=tmp_path, check=True)
    assert "PASSED" in release.run(HOLD)
    with busy(2):
        release.run(HOLD)  # the code is 0: passed, or undecided
    file = tmp_path / "flowers.edgetl/tflite/model.int8.tflite"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    assert "FAILED: 1 of 2 variants: tflite.int8" in release.run(HOLD, expect=1)
    summary = (tmp_path / "summary.md").read_text(encoding="utf-8")
    assert summary.index("| tflite.int8 | ❌ FAIL") < summary.index("<summary>1 variant that passes</summary>")
    changed = subprocess.run(["git", "status", "--short", "-uno"], cwd=tmp_path, capture_output=True, text=True)
    assert changed.stdout == "", "verify writes neither gate nor baseline"


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Meanwhile so many programs of others keep the cores busy."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()
