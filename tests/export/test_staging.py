"""Folders come into place whole or not at all, whoever is killed and whoever else writes; nothing of others is lost."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from edgetl_export import renaming, staging
from edgetl_export.renaming import exchange, rename_onto_nothing
from edgetl_export.staging import MARK, check_destination, scratch, staged, sweep
from edgetl_runtime.errors import OutputError
from tests.export.staging_child import FILES, write

CHILD = Path(__file__).with_name("staging_child.py")


@pytest.fixture(params=["renameat2", "plain"])
def renaming_kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With what Linux can, and without."""
    if request.param == "plain":
        monkeypatch.setattr(renaming, "_system_call", lambda: None)
    return str(request.param)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def bundle(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest").write_text(text)
    return folder


def stage(destination: Path, text: str, *, force: bool = False, meanwhile: Callable[[], object] = lambda: None) -> None:
    with staged(destination, holds="manifest", force=force) as folder:
        bundle(folder, text)
        meanwhile()


def test_a_folder_is_put_in_place(tmp_path: Path, renaming_kind: str) -> None:
    stage(tmp_path / "deep" / "er" / "out.edgetl", "new")
    assert (tmp_path / "deep/er/out.edgetl/manifest").read_text() == "new"
    assert names(tmp_path / "deep/er") == ["out.edgetl"]


def test_with_force_it_is_replaced(tmp_path: Path, renaming_kind: str) -> None:
    bundle(tmp_path / "out", "old")
    (tmp_path / "out" / "more").write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        stage(tmp_path / "out", "new")
    stage(tmp_path / "out", "new", force=True)
    assert names(tmp_path / "out") == ["manifest"]
    assert (tmp_path / "out/manifest").read_text() == "new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine"), OSError(errno.ENOSPC, "full")])
@pytest.mark.parametrize("exists", [True, False])
def test_what_fails_changes_nothing(tmp_path: Path, error: BaseException, exists: bool, renaming_kind: str) -> None:
    out = tmp_path / "folder" / "out"
    if exists:
        bundle(out, "old")

    def fail() -> None:
        raise error

    with pytest.raises(OutputError if isinstance(error, OSError) else type(error)):
        stage(out, "new", force=True, meanwhile=fail)
    assert names(tmp_path) == (["folder"] if exists else [])
    assert not exists or names(out.parent) == ["out"]
    assert not exists or (out / "manifest").read_text() == "old"


def photos(folder: Path) -> None:
    folder.mkdir()
    (folder / "photo.jpg").write_text("precious")


@pytest.mark.parametrize("after", [False, True])
def test_interrupted_between_two_renamings_the_old_one_is_there(
    tmp_path: Path, after: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where folders cannot be exchanged the old one is away for a moment, and an interruption can come right then."""
    monkeypatch.setattr(renaming, "_system_call", lambda: None)
    out = bundle(tmp_path / "out", "old")
    calls: list[Path] = []

    def interrupted(folder: Path, destination: Path) -> None:
        calls.append(destination)
        if after or len(calls) > 1:
            rename_onto_nothing(folder, destination)
        if len(calls) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr(staging, "rename_onto_nothing", interrupted)
    with pytest.raises(KeyboardInterrupt):
        stage(out, "new", force=True)
    assert content(out) == {"manifest": "new" if after else "old"}
    assert names(tmp_path) == ["out"]


MEANWHILE: dict[str, Callable[[Path], object]] = {
    "another bundle": lambda out: bundle(out, "theirs"),
    "a folder of photos": photos,
    "a file": lambda out: out.write_text("theirs"),
    "a link": lambda out: out.symlink_to("/nowhere"),
}


def content(path: Path) -> object:
    if path.is_symlink():
        return path.readlink()
    if path.is_file():
        return path.read_text()
    return {child.name: content(child) for child in path.iterdir()}


@pytest.mark.parametrize("what", MEANWHILE)
@pytest.mark.parametrize("force", [True, False])
def test_what_was_made_meanwhile_stays_and_what_was_written_is_kept(
    tmp_path: Path, what: str, force: bool, renaming_kind: str
) -> None:
    out = tmp_path / "out.edgetl"
    MEANWHILE[what](tmp_path / "theirs")
    theirs = content(tmp_path / "theirs")
    with pytest.raises(OutputError, match=r"somebody else wrote it meanwhile.* out-2\.edgetl|out-2\.edgetl") as found:
        stage(out, "mine", force=force, meanwhile=lambda: (tmp_path / "theirs").rename(out))
    assert content(out) == theirs
    assert content(tmp_path / "out-2.edgetl") == {"manifest": "mine"}
    assert names(tmp_path) == ["out-2.edgetl", "out.edgetl"]
    assert found.value.fix


@pytest.mark.parametrize("what", MEANWHILE)
def test_with_force_only_what_was_there_at_the_start_is_replaced(tmp_path: Path, what: str, renaming_kind: str) -> None:
    out = bundle(tmp_path / "out.edgetl", "old")
    bundle(tmp_path / "out-2.edgetl", "another")

    def other_program() -> None:
        shutil.rmtree(out)
        MEANWHILE[what](out)

    with pytest.raises(OutputError, match="somebody else"):
        stage(out, "mine", force=True, meanwhile=other_program)
    assert content(out) != {"manifest": "mine"}
    assert content(tmp_path / "out-2.edgetl") == {"manifest": "another"}
    assert content(tmp_path / "out-3.edgetl") == {"manifest": "mine"}
    assert names(tmp_path) == ["out-2.edgetl", "out-3.edgetl", "out.edgetl"]


def test_a_report_that_is_written_into_the_old_one_meanwhile_is_no_other_folder(tmp_path: Path) -> None:
    out = bundle(tmp_path / "out", "old")
    stage(out, "new", force=True, meanwhile=lambda: (out / "report.json").write_text("{}"))
    assert content(out) == {"manifest": "new"}


def test_of_several_at_once_one_wins_and_no_work_is_lost(tmp_path: Path, renaming_kind: str) -> None:
    out = tmp_path / "out"

    def run(number: int) -> bool:
        try:
            stage(out, str(number), meanwhile=lambda: time.sleep(0.2))
        except OutputError:
            return False
        return True

    with ThreadPoolExecutor(6) as pool:
        won = list(pool.map(run, range(6)))
    assert won.count(True) == 1
    assert content(out) == {"manifest": str(won.index(True))}
    assert names(tmp_path) == ["out", *(f"out-{n}" for n in range(2, 7))]
    assert {(path / "manifest").read_text() for path in tmp_path.iterdir()} == set("012345")


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed(tmp_path: Path, exists: bool, renaming_kind: str) -> None:
    (tmp_path / "disk").mkdir()
    if exists:
        bundle(tmp_path / "disk" / "real", "old")
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    stage(tmp_path / "out", "new", force=True)
    assert (tmp_path / "out").is_symlink()
    assert content(tmp_path / "disk" / "real") == {"manifest": "new"}
    assert names(tmp_path / "disk") == ["real"]


def test_the_longest_name_will_do(tmp_path: Path) -> None:
    stage(tmp_path / ("ü" * 127), "new")
    assert names(tmp_path) == ["ü" * 127]


def test_everything_is_on_the_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink().name), real(fd)))
    with staged(tmp_path / "out", holds="manifest") as folder:
        bundle(folder, "new")
        bundle(folder / "inner", "new")
    assert synced.count("manifest") == 2
    assert {"new", "inner"} <= set(synced)
    assert synced[-1] == tmp_path.name


# What killed programs leave.


def abandoned(parent: Path, name: str, **parts: str) -> Path:
    """A hidden folder as a killed program leaves it."""
    hidden = parent / f".{name}-edgetl-{random.randbytes(4).hex()}"
    hidden.mkdir(mode=0o700)
    (hidden / MARK).write_text(json.dumps({"edgetl": 1, "for": name}))
    for part, text in parts.items():
        bundle(hidden / part, text)
    return hidden


def test_what_was_abandoned_goes_at_the_next_start(tmp_path: Path) -> None:
    for name in ("out", "other"):
        abandoned(tmp_path, name, new="half")
    (tmp_path / ".out-edgetl-0123abc_").mkdir()  # killed before it had its mark
    check_destination(tmp_path / "out", holds="manifest")
    assert names(tmp_path) == []


def test_an_old_folder_that_was_moved_away_comes_back(tmp_path: Path) -> None:
    abandoned(tmp_path, "out", new="whole or half", old="old")
    with pytest.raises(OutputError, match="exists already"):
        check_destination(tmp_path / "out", holds="manifest")
    assert content(tmp_path / "out") == {"manifest": "old"}
    assert names(tmp_path) == ["out"]


def test_an_old_folder_whose_place_is_taken_comes_back_beside_it(tmp_path: Path) -> None:
    abandoned(tmp_path, "out", new="whole or half", old="old")
    bundle(tmp_path / "out", "theirs")
    sweep(tmp_path)
    assert content(tmp_path / "out") == {"manifest": "theirs"}
    assert content(tmp_path / "out-2") == {"manifest": "old"}


def test_an_old_folder_whose_successor_is_in_place_goes(tmp_path: Path) -> None:
    abandoned(tmp_path, "out", old="old")
    bundle(tmp_path / "out", "new")
    sweep(tmp_path)
    assert content(tmp_path) == {"out": {"manifest": "new"}}


def test_only_what_is_ours_goes(tmp_path: Path) -> None:
    photos(tmp_path / ".photos-edgetl-0123abc_")  # the name alone
    photos(tmp_path / ".out-edgetl-tmp")
    bundle(tmp_path / "elsewhere", "mine")
    (tmp_path / "elsewhere" / MARK).write_text("{}")  # the mark alone
    (tmp_path / ".link-edgetl-0123abc_").symlink_to(tmp_path / "elsewhere")
    linked = tmp_path / ".mark-edgetl-0123abc_"
    photos(linked)
    (linked / MARK).symlink_to(tmp_path / "elsewhere" / MARK)
    added = abandoned(tmp_path, "out", new="half")
    (added / "photo.jpg").write_text("precious")  # somebody put something in
    before = content(tmp_path)
    sweep(tmp_path)
    after = content(tmp_path)
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert after.pop(added.name)["photo.jpg"] == "precious"
    assert {name: before[name] for name in after} == after
    assert {*before} - {*after} == {added.name}


@pytest.mark.parametrize("name", ["../victim", "a/b", "", ".", ".."])
def test_a_mark_that_names_another_place_moves_nothing_there(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    hidden = abandoned(folder, "out", new="half", old="old")
    (hidden / MARK).write_text(json.dumps({"edgetl": 1, "for": name}))
    sweep(folder)
    assert names(tmp_path) == ["folder"]
    assert content(hidden / "old") == {"manifest": "old"}


def test_a_living_program_keeps_its_folder(tmp_path: Path) -> None:
    with scratch(tmp_path, "out") as folder:
        bundle(folder, "mine")
        sweep(tmp_path)
        program = (
            "import sys\nfrom pathlib import Path\nfrom edgetl_export.staging import sweep\nsweep(Path(sys.argv[1]))"
        )
        subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60, check=True)
        assert content(folder) == {"manifest": "mine"}
    assert names(tmp_path) == []


def whole(folder: Path) -> str:
    """The text that all files of a staged folder have."""
    (text,) = {(folder / name).read_text() for name in FILES}
    assert len(text) % 1000 == 0
    assert text
    return text


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["plain"]])
def test_killed_at_any_moment_there_is_a_whole_one(tmp_path: Path, words: list[str]) -> None:
    """By hand, many more times and with exports: tests/fuzz/killed_writing.py."""
    rng = random.Random(str(words))
    out = tmp_path / "out"
    write(out, "0")
    command = [sys.executable, str(CHILD), str(out), *words]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for turn in range(40):
            how = (signal.SIGKILL, signal.SIGTERM)[turn % 2]
            child.stdin.write("\n")
            worker = int(child.stdout.readline())
            time.sleep(rng.uniform(0, 0.03))
            os.kill(worker, how)
            # A signal that arrives where Python drops exceptions (in __del__, say) is lost: a person sends another.
            again = threading.Timer(20, os.kill, (worker, how))
            again.start()
            assert int(child.stdout.readline()) == (-how if how == signal.SIGKILL else 128 + how)
            again.cancel()
            with pytest.raises(OutputError, match="exists already"):  # the next start
                check_destination(out, holds="manifest")
            whole(out)
            assert names(tmp_path) == ["out"]
        child.stdin.close()


# Renaming.


def test_renaming_onto_nothing_replaces_nothing(tmp_path: Path, renaming_kind: str) -> None:
    mine = bundle(tmp_path / "mine", "mine")
    for number, make in enumerate(MEANWHILE.values()):
        place = tmp_path / str(number)
        make(place)
        before = content(place)
        with pytest.raises(FileExistsError):
            rename_onto_nothing(mine, place)
        assert content(place) == before
    rename_onto_nothing(mine, tmp_path / "free")
    assert content(tmp_path / "free") == {"manifest": "mine"}


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EPERM])
def test_a_file_system_that_cannot_exchange(tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        renaming.ctypes.set_errno(number)
        return -1

    monkeypatch.setattr(renaming, "_system_call", lambda: refuse)
    bundle(tmp_path / "out", "old")
    assert not exchange(tmp_path / "out", tmp_path / "out")
    stage(tmp_path / "out", "new", force=True)
    assert content(tmp_path) == {"out": {"manifest": "new"}}


def test_an_old_one_that_cannot_be_moved_stays_and_the_new_one_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stuck(*_: object) -> bool:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(staging, "exchange", stuck)
    bundle(tmp_path / "out", "old")
    with pytest.raises(OutputError, match="cross-device"):
        stage(tmp_path / "out", "new", force=True)
    assert content(tmp_path) == {"out": {"manifest": "old"}, "out-2": {"manifest": "new"}}
