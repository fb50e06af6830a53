"""Files are put in place whole or not at all; what is no regular file is written and never replaced."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import edgetl_runtime.writing as writing_module
from edgetl_runtime.cli import main
from edgetl_runtime.errors import OutputError
from edgetl_runtime.writing import Claim, _random_name, check_writable, replacing, write_file

NEW = "the new content\n" * 1000


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_a_new_file_has_the_permissions_of_the_umask(tmp_path: Path, umask: None) -> None:
    write_file(tmp_path / "report.json", NEW)
    assert (tmp_path / "report.json").read_text() == NEW
    assert stat.S_IMODE((tmp_path / "report.json").stat().st_mode) == 0o640
    assert names(tmp_path) == ["report.json"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664, 0o755])
def test_the_permissions_of_a_replaced_file_are_kept(tmp_path: Path, mode: int, umask: None) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    path.chmod(mode)
    write_file(path, NEW)
    assert path.read_text() == NEW
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_replaced_file_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    os.chown(path, 1234, 2345)
    write_file(path, NEW)
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed_to_its_file(tmp_path: Path, steps: int, exists: bool) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real.json"
    if exists:
        target.write_text("old")
    before = target
    for step in range(steps):
        link = tmp_path / f"link{step}"
        link.symlink_to(before)
        before = link
    write_file(before, NEW)
    assert before.is_symlink()
    assert target.read_text() == NEW
    assert names(tmp_path / "elsewhere") == ["real.json"]


def test_a_ring_of_links_is_said(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OutputError, match="links"):
        write_file(tmp_path / "a", NEW)


@pytest.mark.parametrize("through_link", [False, True])
def test_a_device_is_written_and_stays(tmp_path: Path, through_link: bool) -> None:
    path = Path(os.devnull)
    if through_link:
        path = tmp_path / "link"
        path.symlink_to(os.devnull)
    write_file(path, NEW)
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)
    assert names(tmp_path) == (["link"] if through_link else [])


def test_a_full_device_is_said() -> None:
    with pytest.raises(OutputError, match="/dev/full: No space left"):
        write_file("/dev/full", NEW)
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_pipe_with_a_reader_gets_it_all(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[str] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    content = NEW * 100  # more than a pipe holds
    give_up = time.monotonic() + 10
    while True:
        try:
            write_file(pipe, content)
            break
        except OutputError:
            assert time.monotonic() < give_up
    reader.join(10)
    assert found == [content]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_that_nobody_reads_is_said_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="a pipe that nobody reads"):
        write_file(pipe, NEW)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
@pytest.mark.parametrize("to_file", [True, False])
def test_standard_output_by_name_keeps_what_was_printed(tmp_path: Path, name: str, to_file: bool) -> None:
    program = (
        "from edgetl_runtime.writing import write_file\n"
        f"print('before')\nwrite_file({name!r}, 'written\\n')\nprint('after')\n"
    )
    out = tmp_path / "out.txt"
    with out.open("wb") as file:
        command = [sys.executable, "-c", program]
        done = subprocess.run(command, stdout=file if to_file else subprocess.PIPE, timeout=60, check=True)
    printed = out.read_text() if to_file else done.stdout.decode()
    assert printed == "before\nwritten\nafter\n"
    assert names(tmp_path) == ["out.txt"]


def test_a_folder_and_a_missing_folder_are_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path, what in ((tmp_path, "folder"), (tmp_path / "no" / "a.json", "No such"), (tmp_path / "file/a", "Not a")):
        with pytest.raises(OutputError, match=what):
            write_file(path, NEW)
        with pytest.raises(OutputError, match="cannot write"):
            check_writable(path)


def broken_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def half_written(path: Path, error: BaseException | None = None) -> None:
    with replacing(path) as file:
        file.write(b"half")
        if error is not None:
            raise error


@pytest.mark.parametrize("where", ["fsync", "replace", "body"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, where: str, exists: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    if exists:
        path.write_text("old")
    if where != "body":
        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[where], broken_disk)
    full = OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(OutputError, match="No space left"):
        half_written(path, full if where == "body" else None)
    assert names(tmp_path) == (["report.json"] if exists else [])
    assert not exists or path.read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("mine"), SystemExit(3)])
def test_an_interruption_leaves_nothing(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        half_written(tmp_path / "report.json", error)
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["a" * 255, "ü" * 127, "🌷" * 63])
def test_the_longest_names_will_do(tmp_path: Path, name: str) -> None:
    write_file(tmp_path / name, NEW)
    assert names(tmp_path) == [name]


def test_what_is_no_unicode_is_escaped(tmp_path: Path) -> None:
    path = tmp_path / "info.json"
    write_file(path, json.dumps({"image": "caf\udce9.png"}, ensure_ascii=False))
    assert json.loads(path.read_text()) == {"image": "caf\udce9.png"}


def test_links_planted_under_foretold_names_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    planted = [f".a.json-edgetl-{number:016x}.part" for number in range(3)]
    for name in planted:
        (tmp_path / name).symlink_to(victim)
    tried = iter([*planted, ".a.json-edgetl-00000000000000ff.part"])
    monkeypatch.setattr(writing_module, "_random_name", lambda *_: next(tried))
    write_file(tmp_path / "a.json", NEW)
    assert victim.read_text() == "precious"
    assert (tmp_path / "a.json").read_text() == NEW
    assert names(tmp_path) == sorted([*planted, "a.json", "victim"])


def test_names_differ_and_have_nothing_of_the_process() -> None:
    found = {_random_name("a.json") for _ in range(100)}
    assert len(found) == 100
    assert not any(f"{os.getpid()}." in name for name in found)


def cannot(number: int) -> Callable[..., None]:
    def call(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return call


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EXDEV])
def test_a_file_that_is_a_mount_of_its_own_is_written_where_it_lies(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.write_text("old, and longer than the new one")
    before = path.stat().st_ino
    monkeypatch.setattr(Path, "replace", cannot(number))
    write_file(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_ino == before
    assert names(tmp_path) == ["report.json"]


def test_a_file_written_where_it_lies_gets_its_content_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    monkeypatch.setattr(Path, "replace", cannot(errno.EBUSY))
    real, seen = os.fsync, []

    def second_fails(descriptor: int) -> None:
        seen.append(descriptor)
        if len(seen) == 2:
            broken_disk()
        real(descriptor)

    monkeypatch.setattr(os, "fsync", second_fails)
    with pytest.raises(OutputError, match="No space left"):
        write_file(path, NEW)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["report.json"]


def test_what_a_killed_writer_left_goes_with_the_next_file(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys\nfrom edgetl_runtime.writing import replacing\n"
        "with replacing(sys.argv[1]) as file:\n    file.write(b'half')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    path = tmp_path / "a.json"
    path.write_text("old")
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program, str(path)], timeout=60)
        assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2  # each one took away what the one before had left
    write_file(tmp_path / "b.json", NEW)
    assert names(tmp_path) == ["a.json", "b.json"]


def test_a_living_writer_keeps_its_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.json") as file:
        file.write(b"first")
        write_file(tmp_path / "b.json", NEW)  # this process
        program = "import sys\nfrom edgetl_runtime.writing import write_file\nwrite_file(sys.argv[1], 'c')"
        subprocess.run([sys.executable, "-c", program, str(tmp_path / "c.json")], timeout=60, check=True)
    assert names(tmp_path) == ["a.json", "b.json", "c.json"]
    assert (tmp_path / "a.json").read_bytes() == b"first"


def test_what_only_has_such_a_name_is_not_taken(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / _random_name("x")).symlink_to(victim)
    (tmp_path / _random_name("y")).mkdir()
    os.mkfifo(tmp_path / _random_name("z"))
    (tmp_path / "notes.part").write_text("mine")
    before = names(tmp_path)
    write_file(tmp_path / "zz.json", NEW)
    assert names(tmp_path) == sorted([*before, "zz.json"])
    assert victim.read_text() == "precious"


def test_many_writers_of_one_file_leave_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"

    def write(letter: str) -> None:
        for _ in range(20):
            write_file(path, letter * 5000)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    seen = set()
    while any(thread.is_alive() for thread in threads):
        if path.exists():
            seen.add(path.read_text())
    for thread in threads:
        thread.join()
    assert seen <= {letter * 5000 for letter in "abcd"}
    assert names(tmp_path) == ["a.json"]


def test_a_claim_is_given_to_one(tmp_path: Path) -> None:
    claim = Claim.create(tmp_path / "mark")
    assert claim is not None
    assert Claim.take_over(tmp_path / "mark") is None
    claim.close()
    claim.close()
    taken = Claim.take_over(tmp_path / "mark")
    assert taken is not None
    assert Claim.take_over(tmp_path / "mark") is None
    taken.close()


# What people type.


def test_json_to_the_null_device_keeps_the_device(pristine_bundle: Path) -> None:
    assert main(["info", str(pristine_bundle), "--json", os.devnull]) == 0
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_full_disk_keeps_the_result_of_before(
    pristine_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "info.json"
    out.write_text("the result of before")
    monkeypatch.setattr(os, "fsync", broken_disk)
    assert main(["info", str(pristine_bundle), "--json", str(out)]) == 2
    assert "No space left" in capsys.readouterr().err
    assert out.read_text() == "the result of before"
    assert names(tmp_path) == ["info.json"]


def test_a_result_that_cannot_be_written_leaves_no_empty_file(
    pristine_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", broken_disk)
    assert main(["info", str(pristine_bundle), "--json", str(tmp_path / "info.json")]) == 2
    assert names(tmp_path) == []
