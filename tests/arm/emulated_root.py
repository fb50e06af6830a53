"""An aarch64 Debian in a folder, and the emulator that runs its programs: no root, nothing installed on the system.

apt is given a state of its own, so that the system's architectures, package lists and sources stay as they are.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from steps import output_of, whole_folder

from edgetl_runtime.errors import EngineError, UsageError

__all__ = ["PACKAGES", "Emulator", "debian_archive", "find_emulator", "make_root", "qemu_version", "sources"]

PACKAGES = (
    "python3.11", "python3.11-minimal", "libpython3.11-minimal", "libpython3.11-stdlib", "libc6", "libssl3", "zlib1g",
    "libexpat1", "libffi8", "libbz2-1.0", "liblzma5", "libsqlite3-0", "libuuid1", "libstdc++6", "libgcc-s1",
    "libcrypt1",
)  # fmt: skip
"""Python 3.11 as Debian has it, and the libraries that it and the wheels load."""

_ROOT_SUITE = "bookworm"
_QEMU_SUITE = "trixie"
# In QEMU 7.2, which Debian 12 has, onnxruntime 1.31 and ai-edge-litert 2.3 crash; in 10.0 they run.
_LEAST_QEMU = (10,)
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class Emulator:
    """QEMU's user-mode emulator of aarch64: the program, and its version."""

    program: Path
    version: tuple[int, ...]


def find_emulator(workdir: Path, named: Path | None) -> Emulator:
    """`named`, else one on PATH that is new enough, else Debian's, unpacked into `workdir` and kept there.

    Raises `UsageError` or `EngineError` when there is none to be had.
    """
    if named is not None:
        return _emulator(named)
    found = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if found is not None:
        emulator = _emulator(Path(found))
        if emulator.version >= _LEAST_QEMU:
            return emulator
    folder = workdir / "qemu"
    if not folder.exists():
        with whole_folder(folder) as fresh:
            _unpack(workdir, ["qemu-user:amd64"], fresh)
    return _emulator(folder / "usr/bin/qemu-aarch64")


def make_root(workdir: Path) -> Path:
    """The folder with Debian's arm64 packages of Python 3.11, made once. Raises `EngineError` or `UsageError`."""
    root = workdir / "root"
    if not root.exists():
        with whole_folder(root) as fresh:
            _unpack(workdir, [f"{name}:arm64" for name in PACKAGES], fresh)
    return root


def qemu_version(text: str) -> tuple[int, ...]:
    """The version in what ``qemu-aarch64 --version`` prints. Raises `UsageError` when there is none."""
    match = re.search(r"^qemu-aarch64\S* version (\d+(?:\.\d+)*)", text)
    if match is None:
        raise UsageError(f"this is not QEMU: {text.strip()[:80]!r}", fix="--qemu with the path of qemu-aarch64-static")
    return tuple(int(part) for part in match.group(1).split("."))


def debian_archive(targets: str) -> str:
    """The address of Debian's archive, or of the mirror in use, from apt's lines "ADDRESS RELEASE COMPONENT".

    Security and updates are archives of their own. Raises `UsageError` when no line is of a plain Debian release.
    """
    for line in targets.splitlines():
        words = line.split()
        if len(words) != 3 or not words[0].rstrip("/").endswith("/debian") or words[2] != "main":
            continue
        if not words[1].endswith(("-updates", "-security", "-backports")):
            return words[0]
    raise UsageError(
        "apt knows no Debian archive here, from which emulator and aarch64 Python would come",
        fix="run this on Debian 12 or newer, or in a Debian container",
    )


def sources(archive: str, keyring: Path | None) -> str:
    """The sources list: the root's release for arm64, the emulator's for amd64. Without `keyring`, apt's own keys."""
    key = "" if keyring is None else f" signed-by={keyring}"
    suites = {"arm64": _ROOT_SUITE, "amd64": _QEMU_SUITE}
    return "".join(f"deb [arch={arch}{key}] {archive} {suite} main\n" for arch, suite in suites.items())


def _emulator(program: Path) -> Emulator:
    try:
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, timeout=60, check=False)
    except OSError as error:
        raise UsageError(f"cannot run {program}: {error.strerror}", fix="leave --qemu out to download it") from error
    return Emulator(program.absolute(), qemu_version(done.stdout + done.stderr))


def _unpack(workdir: Path, packages: Sequence[str], into: Path) -> None:
    """Download `packages` ("name:architecture") and unpack them into a folder."""
    options = _own_state(workdir)
    debs = workdir / "debs"
    shutil.rmtree(debs, ignore_errors=True)
    debs.mkdir()
    _apt([*options, "download", *packages], cwd=debs)
    files = sorted(debs.glob("*.deb"))
    if len(files) != len(packages):
        raise EngineError(f"apt-get brought {len(files)} of {len(packages)} packages", fix=f"remove {workdir / 'apt'}")
    for file in files:
        unpack = ["dpkg", "-x", str(file), str(into)]
        output_of(unpack, cwd=workdir, what=f"unpack {file.name}", fix="free some disk space")
    shutil.rmtree(debs)


def _own_state(workdir: Path) -> list[str]:
    """Options that give apt a state of its own in `workdir`; its package lists are fetched once."""
    state = workdir / "apt"
    settings = {
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64,arm64",
        "APT::Sandbox::User": "",
        "APT::Update::Error-Mode": "any",
        "Acquire::Languages": "none",
        "Dir::State": state,
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "Dir::Etc::sourcelist": state / "sources.list",
        "Dir::Etc::sourceparts": state / "none",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    if not state.exists():
        targets = ["--no-release-info", "Created-By: Packages", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)"]
        archive = debian_archive(_apt(["indextargets", *targets], cwd=workdir))
        with whole_folder(state) as fresh:
            (fresh / "sources.list").write_text(sources(archive, _KEYRING if _KEYRING.exists() else None))
            (fresh / "status").touch()
            for folder in ("lists/partial", "cache/archives/partial", "none"):
                (fresh / folder).mkdir(parents=True)
            there = [word.replace(str(state), str(fresh)) for word in options]
            _apt([*there, "update"], cwd=workdir)
    return options


def _apt(arguments: Sequence[str], *, cwd: Path) -> str:
    return output_of(
        ["apt-get", "-q", *arguments],
        cwd=cwd,
        what="obtain qemu-aarch64-static and the aarch64 packages with apt-get",
        fix="run this on Debian 12 or newer, with a network; an emulator that is there already: --qemu PATH",
    )
