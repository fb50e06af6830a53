from __future__ import annotations

import sys
from pathlib import Path

import pytest
from emulated_root import PACKAGES, debian_archive, find_emulator, qemu_version, sources
from steps import last_lines, output_of, whole_folder

from edgetl_runtime.errors import EngineError, UsageError


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("qemu-aarch64 version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18+b3)\nCopyright (c) 2003-2022", (7, 2, 22)),
        ("qemu-aarch64-static version 10.0.13 (Debian 1:10.0.13+ds-0+deb13u1)", (10, 0, 13)),
        ("qemu-aarch64 version 10", (10,)),
    ],
)
def test_the_version_of_qemu_is_read(text: str, version: tuple[int, ...]) -> None:
    assert qemu_version(text) == version


@pytest.mark.parametrize("text", ["", "Python 3.11.2", "qemu-system-x86_64 version 9.0"])
def test_another_program_is_not_taken_for_it(text: str) -> None:
    with pytest.raises(UsageError, match="not QEMU"):
        qemu_version(text)


def fake_program(folder: Path, version: str) -> Path:
    program = folder / "qemu-aarch64-static"
    program.write_text(f"#!/bin/sh\necho qemu-aarch64 version {version}\n")
    program.chmod(0o755)
    return program


def test_an_emulator_on_the_path_is_taken_when_it_is_new_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = fake_program(tmp_path, "10.0.1")
    assert find_emulator(tmp_path, None).program == program


def test_an_old_emulator_is_only_taken_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = fake_program(tmp_path, "7.2.22")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="there is no apt-get here") as caught:
        find_emulator(tmp_path, None)
    assert "--qemu" in str(caught.value)
    assert find_emulator(tmp_path, program).version == (7, 2, 22)


def test_a_named_emulator_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot run"):
        find_emulator(tmp_path, tmp_path / "nowhere")


def test_debians_archive_is_found_among_the_sources() -> None:
    lines = [
        "https://else.example/node nodistro main",
        "http://mirror.example/debian-security/ bookworm-security main",
        "http://mirror.example/debian/ bookworm-updates main",
        "http://mirror.example/debian/ bookworm contrib",
        "http://first.example/debian/ bookworm main",
        "http://second.example/debian trixie main",
    ]
    assert debian_archive("\n".join(lines)) == "http://first.example/debian/"
    assert debian_archive(lines[-1]) == "http://second.example/debian"
    with pytest.raises(UsageError, match="no Debian archive"):
        debian_archive("\n".join(lines[:4]))


def test_the_sources_list_has_one_architecture_for_each_release() -> None:
    keyring = Path("keys.gpg")
    assert sources("http://a.example/debian", keyring).splitlines() == [
        "deb [arch=arm64 signed-by=keys.gpg] http://a.example/debian bookworm main",
        "deb [arch=amd64 signed-by=keys.gpg] http://a.example/debian trixie main",
    ]
    assert "signed-by" not in sources("http://a.example/debian", None)


def test_every_package_is_named_once() -> None:
    assert len(set(PACKAGES)) == len(PACKAGES)


def test_a_folder_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    def fill(text: str, *, fail: bool = False) -> None:
        with whole_folder(tmp_path / "a/b") as fresh:
            (fresh / text).touch()
            if fail:
                raise EngineError("half-way")

    with pytest.raises(EngineError):
        fill("broken", fail=True)
    assert not (tmp_path / "a/b").exists()
    fill("one")
    fill("two")
    assert [path.name for path in (tmp_path / "a/b").iterdir()] == ["two"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_a_command_that_fails_says_what_and_how_to_fix_it(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "import sys; print('a\\n\\nb', file=sys.stderr); sys.exit(3)"]
    with pytest.raises(EngineError, match=r"cannot fly: a / b\n  fix: grow wings"):
        output_of(failing, cwd=tmp_path, what="fly", fix="grow wings")
    assert output_of([sys.executable, "-c", "print(7)"], cwd=tmp_path, what="", fix="") == "7\n"


def test_the_last_lines_that_say_something() -> None:
    assert last_lines("1\n2\n\n 3 \n4\n\n") == "2 / 3 / 4"
    assert last_lines("") == ""
