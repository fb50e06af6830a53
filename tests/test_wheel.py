"""The two wheels in bare environments: what is in them, and that a device needs one engine and nothing else.

``EDGETL_BUNDLE`` names a bundle folder to run instead of the hand-made one.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email import message_from_string
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TARGETS = {"onnx": "onnx", "tflite": "tflite", "openvino": "openvino"}
"""Extra -> the target that its engine runs."""
DEVICES = {"onnx": "edgetl", "tflite": "edgetl-runtime", "openvino": "edgetl-runtime"}
"""Extra -> the distribution that it is installed from here."""
WHOLE = [extra for extra, distribution in DEVICES.items() if distribution == "edgetl"]
THIN = [extra for extra in DEVICES if extra not in WHOLE]
HELP = {
    "edgetl": ["run", "train", "export", "verify", "bench", "inspect", "backbones", "demo"],
    "edgetl-run": ["info", "predict", "bench", "self-test"],
}
WHEEL_LIMIT, INSTALLED_LIMIT = 300_000, 545_000
"""Bytes of the device's wheel, and of its files when installed."""
SCRIPTS = "Scripts" if os.name == "nt" else "bin"


@dataclass(frozen=True)
class Device:
    """A fresh environment with one extra of a distribution; commands run in an empty folder, and see nothing of this
    checkout."""

    extra: str
    distribution: str
    environment: Path
    folder: Path

    def run(self, program: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self._done(str(self.environment / SCRIPTS / program), *words)

    def pip(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The pip of this environment works on that of the device: it takes seconds to give each its own."""
        python = str(self.environment / SCRIPTS / "python")
        return self._done(sys.executable, "-m", "pip", "--python", python, *words)

    def _done(self, *command: str) -> subprocess.CompletedProcess[str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return subprocess.run(command, cwd=self.folder, env=variables, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheel of each distribution."""
    pytest.importorskip("build")
    found = {}
    for distribution, source in (("edgetl", ROOT), ("edgetl-runtime", ROOT / "runtime")):
        folder = tmp_path_factory.mktemp("dist")
        command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        (found[distribution],) = folder.glob("*.whl")
    return found


def contents(wheel: Path) -> dict[str, int]:
    """A wheel's files: path -> bytes when installed."""
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.file_size for info in archive.infolist()}


@pytest.fixture(scope="session")
def files(wheels: dict[str, Path]) -> dict[str, int]:
    """What is in the wheel of all three packages."""
    return contents(wheels["edgetl"])


@pytest.fixture(scope="session")
def devices(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Device]:
    """Makes the device of an extra when it is first asked for."""

    @functools.cache
    def make(extra: str) -> Device | str:
        """What there is instead: why no device can be made."""
        folder = tmp_path_factory.mktemp(f"device-{extra}")
        (folder / "empty").mkdir()
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True, timeout=300)
        fresh = Device(extra, DEVICES[extra], folder / "venv", folder / "empty")
        probe = fresh.pip("install", "-q", "--no-compile", "numpy", "pillow")
        if probe.returncode != 0:
            return f"no package index: {(probe.stderr.strip().splitlines() or ['pip failed'])[-1]}"
        installed = fresh.pip("install", "-q", "--no-compile", f"{wheels[fresh.distribution]}[{extra}]")
        assert installed.returncode == 0, installed.stderr
        return fresh

    def device_or_skip(extra: str) -> Device:
        made = make(extra)
        if isinstance(made, str):
            pytest.skip(made)
        return made

    return device_or_skip


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, devices: Callable[[str], Device]) -> Iterator[Device]:
    found = devices(request.param)
    yield found
    assert list(found.folder.iterdir()) == []


@pytest.fixture(scope="session")
def bundle(request: pytest.FixtureRequest) -> Path:
    if "EDGETL_BUNDLE" in os.environ:
        return Path(os.environ["EDGETL_BUNDLE"]).absolute()
    path: Path = request.getfixturevalue("pristine_bundle")
    return path


def variants(bundle: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["variants"]
    return found


def test_the_wheel_holds_the_three_packages_and_nothing_else(files: dict[str, int]) -> None:
    top = {path.partition("/")[0] for path in files if ".dist-info/" not in path}
    assert top == {"edgetl", "edgetl_export", "edgetl_runtime"}
    assert {f"{package}/py.typed" for package in top} <= set(files)
    assert any(path.endswith("licenses/LICENSE") for path in files)


def test_the_wheel_holds_every_file_of_the_packages_but_the_pages(files: dict[str, int]) -> None:
    expected = {
        path.relative_to(folder.parent).as_posix()
        for folder in (ROOT / "edgetl", ROOT / "export/edgetl_export", ROOT / "runtime/edgetl_runtime")
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".md"
    }
    assert expected == {path for path in files if ".dist-info/" not in path}
    assert any(path.endswith(".j2") for path in expected)


def test_the_devices_wheel_is_the_runtime_as_it_is_in_the_whole_one(
    files: dict[str, int], wheels: dict[str, Path]
) -> None:
    found = contents(wheels["edgetl-runtime"])
    mine, whole = (
        {path: size for path, size in some.items() if path.startswith("edgetl_runtime/")} for some in (found, files)
    )
    assert mine == whole
    assert {path.partition("/")[0] for path in found if ".dist-info/" not in path} == {"edgetl_runtime"}
    assert any(path.endswith("licenses/LICENSE") for path in found)
    versions = {path.name.split("-")[1] for path in wheels.values()}
    assert len(versions) == 1


def metadata(wheel: Path) -> Message:
    """What an index page is made from."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return message_from_string(archive.read(name).decode())


def test_an_index_page_says_who_and_has_no_dead_link(wheels: dict[str, Path]) -> None:
    for distribution, wheel in wheels.items():
        found = metadata(wheel)
        assert found["Author"], distribution
        assert found["Description-Content-Type"] == "text/markdown"
        page = found.get_payload()
        assert isinstance(page, str)
        assert len(page.splitlines()) > 100
        assert not re.findall(r"\]\((?!https://)", page), distribution
        assert "<img" not in page


@pytest.fixture(scope="module")
def hook() -> Any:
    """What makes the description of a distribution."""
    pytest.importorskip("hatchling")
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "runtime" / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    hook = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hook)
    return hook


def test_an_index_page_has_neither_contents_nor_comments_and_ends_where_it_should(hook: Any) -> None:
    page = "# A\n\n- [B](#b)\n- [C](#c)\n\n## B\n\n<!-- test: video -->\ntext\n\n## C\n\nnumbers\n"
    assert hook.for_an_index(page, "C") == ("# A\n\n## B\n\ntext\n\nThere is more of this page in the repository.\n")
    assert hook.for_an_index(page, "").endswith("## C\n\nnumbers\n")


def test_with_the_address_of_the_repository_links_lead_there(hook: Any) -> None:
    page = (
        '[a](../tests/README.md#x) [b](#y) [c](https://e.org/z) <img src="p.png" width="9"> [d](run.md)\n'
        "git clone REPOSITORY edgetl && cd edgetl\n"
    )
    assert hook.with_links(page, "runtime/README.md", "https://h.org/o/n") == (
        "[a](https://h.org/o/n/blob/HEAD/tests/README.md#x) [b](https://h.org/o/n/blob/HEAD/runtime/README.md#y) "
        '[c](https://e.org/z) <img src="https://h.org/o/n/raw/HEAD/runtime/p.png" width="9"> '
        "[d](https://h.org/o/n/blob/HEAD/runtime/run.md)\ngit clone https://h.org/o/n edgetl && cd edgetl\n"
    )
    assert hook.with_links(page, "runtime/README.md", "").startswith("a b [c](https://e.org/z)  d\n")


def test_the_devices_wheel_is_small(wheels: dict[str, Path]) -> None:
    assert 0 < wheels["edgetl-runtime"].stat().st_size <= WHEEL_LIMIT
    assert sum(contents(wheels["edgetl-runtime"]).values()) <= INSTALLED_LIMIT


@pytest.mark.network
def test_torch_is_not_installed(device: Device) -> None:
    program = (
        "import importlib.util as u; print([n for n in ('torch', 'tensorflow', 'onnx', 'jinja2') if u.find_spec(n)])"
    )
    assert device.run("python", "-c", program).stdout.strip() == "[]"
    assert device.pip("check").returncode == 0


@pytest.mark.network
@pytest.mark.parametrize("device", THIN, indirect=True)
def test_a_device_has_no_workbench(device: Device) -> None:
    assert (device.environment / SCRIPTS / "edgetl-run").exists()
    assert not (device.environment / SCRIPTS / "edgetl").exists()


@pytest.mark.network
@pytest.mark.parametrize(
    ("program", "device"),
    [*[("edgetl", extra) for extra in WHOLE], *[("edgetl-run", extra) for extra in DEVICES]],
    indirect=["device"],
)
def test_every_command_answers_help(program: str, device: Device) -> None:
    for words in ([], *([command] for command in HELP[program])):
        done = device.run(program, *words, "-h")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: {' '.join([program, *words])}")
    assert device.run(program, "--version").stdout.startswith(program)


@pytest.mark.network
def test_the_bundle_runs(device: Device, bundle: Path) -> None:
    mine = {str(variant["id"]) for variant in variants(bundle) if variant["target"] == TARGETS[device.extra]}
    photo = bundle / "golden" / "00.png"
    documents = {}
    for command, words in {
        "info": [],
        "predict": [str(photo)],
        "bench": ["--seconds", "0.05", "--threads", "1"],
        "self-test": [],
    }.items():
        done = device.run("edgetl-run", command, str(bundle), *words, "--json", "-")
        assert done.returncode == 0, f"{command}: {done.stderr}"
        documents[command] = json.loads(done.stdout)
    assert {item["id"] for item in documents["info"]["variants"] if item["runnable"]} == mine
    assert documents["predict"]["variant"] in mine
    assert documents["predict"]["predictions"][0]["scores"]
    assert {item["id"] for item in documents["bench"]["variants"]} == mine
    assert documents["self-test"]["passed"] is True
    assert documents["self-test"]["pixels"] == 0
    assert {item["id"] for item in documents["self-test"]["variants"]} == mine


@pytest.mark.network
def test_one_model_file_runs(device: Device, bundle: Path) -> None:
    target = TARGETS[device.extra]
    path = next(variant["files"][0]["path"] for variant in variants(bundle) if variant["target"] == target)
    done = device.run("edgetl-run", "predict", str(bundle / path), str(bundle / "golden" / "00.png"), "--top", "1")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.network
@pytest.mark.parametrize("command", ["predict", "bench", "self-test"])
def test_a_missing_engine_is_one_line(command: str, device: Device, bundle: Path) -> None:
    other = next(target for target in TARGETS.values() if target != TARGETS[device.extra])
    path = next(variant["files"][0]["path"] for variant in variants(bundle) if variant["target"] == other)
    images = [str(bundle / "golden" / "00.png")] if command == "predict" else []
    done = device.run("edgetl-run", command, str(bundle / path), *images)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert f'pip install "{device.distribution}[{other}]"' in line


@pytest.mark.network
@pytest.mark.parametrize(
    "words",
    [
        ["run", "--data", "photos", "--out", "out.edgetl"],
        ["train", "--data", "photos", "--out", "out"],
        ["export", "checkpoint", "--calibration", "photos", "--out", "out.edgetl"],
        ["backbones"],
        ["demo"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("device", WHOLE, indirect=True)
def test_work_that_needs_torch_says_what_to_install(words: list[str], device: Device) -> None:
    done = device.run("edgetl", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("edgetl: error: ")
    assert 'pip install "edgetl[' in line
