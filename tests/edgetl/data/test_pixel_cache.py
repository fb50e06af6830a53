from __future__ import annotations

import errno
import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

import edgetl.data.pixel_cache as pixel_cache_module
from edgetl.data.pixel_cache import PixelCache
from edgetl_export.staging import MARK, scratch
from edgetl_runtime.errors import ImageError, OutputError

Rows = npt.NDArray[np.uint8]

N, SHAPE = 70, (6, 5, 3)
ROW = 6 * 5 * 3
IMAGES: Rows = np.random.default_rng(0).integers(0, 256, (N, *SHAPE), dtype=np.uint8)


class Source:
    """Decodes `IMAGES`, and counts how often each was asked for."""

    def __init__(self) -> None:
        self.asked: Counter[int] = Counter()

    def __call__(self, index: int) -> Rows:
        self.asked[index] += 1
        return IMAGES[index]


@pytest.fixture
def source() -> Source:
    return Source()


def read(cache: PixelCache, indices: list[int] | range = range(N)) -> Rows:
    rows = np.zeros((len(indices), *SHAPE), np.uint8)
    cache.read_into(indices, rows)
    return rows


def filled(folder: Path) -> Path:
    PixelCache.open(folder, "key", N, Source())
    return folder / "key"


def test_images_are_decoded_once(tmp_path: Path, source: Source) -> None:
    cache = PixelCache.open(tmp_path / "new" / "folder", "key", N, source)
    assert cache.shape == SHAPE
    assert np.array_equal(read(cache), IMAGES)
    assert np.array_equal(read(cache, [3, 69, 3]), IMAGES[[3, 69, 3]])
    assert source.asked == Counter(range(N)) + Counter([0])  # the first is asked for its size before
    again = Source()
    assert np.array_equal(read(PixelCache.open(tmp_path / "new" / "folder", "key", N, again)), IMAGES)
    assert not again.asked
    assert cache.repaired == 0


def test_its_progress_is_told(tmp_path: Path, source: Source) -> None:
    told: list[Any] = []

    def track(items: Any, *, what: str, total: int) -> Any:
        told.append((what, total))
        return items

    for _ in range(2):
        PixelCache.open(tmp_path, "key", N, source, track=track)
    assert told == [("decode", N)]


@pytest.mark.parametrize("reopened", [True, False])
def test_a_flipped_bit_is_noticed_and_repaired(tmp_path: Path, source: Source, *, reopened: bool) -> None:
    rows = filled(tmp_path) / "rows.u8"
    cache = PixelCache.open(tmp_path, "key", N, source)
    with rows.open("r+b") as file:
        file.seek(7 * ROW + 11)
        file.write(bytes([IMAGES.tobytes()[7 * ROW + 11] ^ 4]))
    if reopened:
        cache = PixelCache.open(tmp_path, "key", N, source)
    assert np.array_equal(read(cache), IMAGES)
    assert source.asked == Counter([7])
    assert cache.repaired == 1
    assert rows.read_bytes() == IMAGES.tobytes()
    assert np.array_equal(read(cache), IMAGES)
    assert cache.repaired == 1


@pytest.mark.parametrize("reopened", [True, False])
@pytest.mark.parametrize("left", [0, 3 * ROW, N * ROW - 1])
def test_a_truncated_file_is_noticed_and_repaired(tmp_path: Path, source: Source, left: int, *, reopened: bool) -> None:
    rows = filled(tmp_path) / "rows.u8"
    cache = PixelCache.open(tmp_path, "key", N, source)
    os.truncate(rows, left)
    if reopened:
        cache = PixelCache.open(tmp_path, "key", N, source)
    assert np.array_equal(read(cache), IMAGES)
    assert cache.repaired == N - left // ROW
    assert sorted(source.asked) == [*range(left // ROW, N)]
    assert rows.read_bytes() == IMAGES.tobytes()


def test_a_file_that_grew_is_read_and_not_cut(tmp_path: Path, source: Source) -> None:
    rows = filled(tmp_path) / "rows.u8"
    with rows.open("ab") as file:
        file.write(b"more")
    assert np.array_equal(read(PixelCache.open(tmp_path, "key", N, source)), IMAGES)
    assert rows.read_bytes() == IMAGES.tobytes() + b"more"
    assert not source.asked


def half(text: str) -> str:
    return text[: len(text) // 2]


def other_sum(text: str) -> str:
    about = json.loads(text)
    about["crc32"][5] ^= 1
    return json.dumps(about)


def other(name: str, value: Any) -> Callable[[str], str]:
    def changed(text: str) -> str:
        about = json.loads(text) | {name: value}
        about.pop("check")
        return json.dumps(about | {"check": pixel_cache_module._check(about)})

    return changed


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        half,
        lambda _: "[1, 2]",
        lambda _: "\0" * 100,
        other_sum,
        other("key", "of other images"),
        other("version", 99),
        other("crc32", [1, 2, 3]),
        other("shape", [6, 5]),
    ],
)
def test_an_index_that_is_damaged_or_foreign_is_as_good_as_none(
    tmp_path: Path, source: Source, damage: Callable[[str], str]
) -> None:
    index = filled(tmp_path) / "index.json"
    whole = index.read_text()
    index.write_text(damage(whole))
    assert np.array_equal(read(PixelCache.open(tmp_path, "key", N, source)), IMAGES)
    assert len(source.asked) == N
    assert index.read_text() == whole
    assert [path.name for path in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("missing", ["index.json", "rows.u8"])
def test_an_entry_that_lacks_a_file_is_filled_anew(tmp_path: Path, source: Source, missing: str) -> None:
    (filled(tmp_path) / missing).unlink()
    assert np.array_equal(read(PixelCache.open(tmp_path, "key", N, source)), IMAGES)
    assert len(source.asked) == N


def test_a_source_that_decodes_otherwise_is_right(tmp_path: Path) -> None:
    rows = filled(tmp_path) / "rows.u8"
    with rows.open("r+b") as file:
        file.write(b"\0" * ROW)
    damaged = rows.read_bytes()
    cache = PixelCache.open(tmp_path, "key", N, lambda index: IMAGES[index] ^ 1)
    assert np.array_equal(read(cache, [0, 1]), [IMAGES[0] ^ 1, IMAGES[1]])
    assert rows.read_bytes() == damaged  # the index does not speak of these pixels


def test_two_writers_do_not_meet(tmp_path: Path) -> None:
    together = threading.Barrier(2)

    class Meeting(NamedTuple):
        source: Source

        def __call__(self, index: int) -> Rows:
            if index in (0, N - 1) and self.source.asked[index] == 0:
                self.source.asked[index] += 1
                together.wait(10)  # neither has begun to write, or has ended, before the other is here
            return self.source(index)

    sources = Source(), Source()
    with ThreadPoolExecutor(2) as pool:
        caches = list(pool.map(lambda source: PixelCache.open(tmp_path, "key", N, Meeting(source)), sources))
    for cache, source in zip(caches, sources, strict=True):
        assert np.array_equal(read(cache), IMAGES)
        assert cache.repaired == 0
        assert len(source.asked) == N
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key" / "rows.u8").read_bytes() == IMAGES.tobytes()


def test_whoever_is_last_leaves_what_is_there(tmp_path: Path, source: Source) -> None:
    first: list[os.stat_result] = []

    def overtaken(index: int) -> Rows:
        if index == N - 1:
            first.append((filled(tmp_path) / "rows.u8").stat())
        return source(index)

    cache = PixelCache.open(tmp_path, "key", N, overtaken)
    assert (tmp_path / "key" / "rows.u8").stat() == first[0]
    assert np.array_equal(read(cache), IMAGES)


def test_many_threads_read_and_repair_at_once(tmp_path: Path, source: Source) -> None:
    rows = filled(tmp_path) / "rows.u8"
    cache = PixelCache.open(tmp_path, "key", N, source)
    with rows.open("r+b") as file:
        file.write(b"\0" * ROW * 40)
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(seen, IMAGES) for seen in pool.map(lambda _: read(cache), range(16)))
    assert rows.read_bytes() == IMAGES.tobytes()


def test_what_fails_half_way_leaves_nothing(tmp_path: Path, source: Source) -> None:
    def broken(index: int) -> Rows:
        if index == 50:
            raise ImageError("cannot read 50.jpg")
        return IMAGES[index]

    with pytest.raises(ImageError, match=r"50\.jpg"):
        PixelCache.open(tmp_path, "key", N, broken)
    assert not [*tmp_path.iterdir()]
    assert np.array_equal(read(PixelCache.open(tmp_path, "key", N, source)), IMAGES)


def test_what_a_killed_program_left_goes_and_what_a_living_one_fills_stays(tmp_path: Path, source: Source) -> None:
    killed = tmp_path / ".key-edgetl-0123abc_"
    (killed / "new").mkdir(parents=True)
    (killed / "new" / "rows.u8").write_bytes(b"half")
    (killed / MARK).write_text("{}")
    mine = tmp_path / "photos.1.2.part"
    mine.mkdir()
    (mine / "rows.u8").write_bytes(b"precious")
    os.utime(mine, (0, 0))
    with scratch(tmp_path, "other") as living:
        PixelCache.open(tmp_path, "key", N, source)
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([living.parent.name, "key", mine.name])
    assert (mine / "rows.u8").read_bytes() == b"precious"


def key_of(letter: str) -> str:
    return letter * 64


def used(folder: Path, seconds: int) -> None:
    os.utime(folder / "index.json", (seconds, seconds))


def keys_in(folder: Path) -> str:
    return "".join(sorted(path.name[:1] for path in folder.iterdir()))


def test_entries_that_were_not_used_for_longest_make_room(tmp_path: Path, source: Source) -> None:
    limit = 3 * N * ROW
    for seconds, letter in enumerate("abc"):
        PixelCache.open(tmp_path, key_of(letter), N, source, limit=limit)
        used(tmp_path / key_of(letter), 1000 + seconds)
    in_use = PixelCache.open(tmp_path, key_of("a"), N, source, limit=limit)  # now b is the oldest
    PixelCache.open(tmp_path, key_of("d"), N, source, limit=limit)
    assert keys_in(tmp_path) == "acd"
    PixelCache.open(tmp_path, key_of("e"), 2 * N, lambda index: IMAGES[index % N], limit=limit)
    assert keys_in(tmp_path) == "de"
    assert np.array_equal(read(in_use), IMAGES)  # what is removed can still be read by whoever has it open


def peoples_things(folder: Path) -> None:
    """What must never go, however it looks."""
    for name in ("holiday", key_of("1"), f"{key_of('2')}.part", f".{key_of('3')}"):
        (folder / name).mkdir()
        (folder / name / "photo.jpg").write_bytes(b"precious")
        used_file = folder / name / "rows.u8"
        used_file.write_bytes(b"also precious")
    (folder / key_of("4")).mkdir()
    (folder / key_of("4") / "index.json").write_text(json.dumps({"version": 1, "key": key_of("4")}))
    (folder / key_of("4") / "rows.u8").write_bytes(b"precious")
    (folder / "photo.jpg").write_bytes(b"precious")


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("why", ["limit", "disk"])
def test_making_room_takes_nothing_of_people(
    tmp_path: Path, source: Source, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    peoples_things(tmp_path)
    precious = tree(tmp_path)
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    PixelCache.open(outside, key_of("b"), N, source)
    (tmp_path / key_of("b")).symlink_to(outside / key_of("b"))  # one's own link to an entry elsewhere
    for letter in "ac":
        PixelCache.open(tmp_path, key_of(letter), N, source)
        used(tmp_path / key_of(letter), 1000)
    (tmp_path / key_of("a") / "photo.jpg").write_bytes(b"precious")
    precious[f"{key_of('a')}/photo.jpg"] = b"precious"
    if why == "limit":
        PixelCache.open(tmp_path, key_of("d"), N, source, limit=int(2.5 * N * ROW))
    else:
        free = iter([5 * 10**8 - ROW, 10**12])
        monkeypatch.setattr(
            shutil,
            "disk_usage",
            lambda _: shutil._ntuple_diskusage(10**12, 0, next(free)),  # type: ignore[attr-defined]
        )
        PixelCache.open(tmp_path, key_of("d"), N, source)
    found = tree(tmp_path)
    assert {name: found.get(name) for name in precious} == precious
    assert not (tmp_path / key_of("a") / "rows.u8").exists()
    assert sorted(tree(outside)) == ["CACHEDIR.TAG", f"{key_of('b')}/index.json", f"{key_of('b')}/rows.u8"]


def test_nothing_is_removed_where_that_would_not_be_enough(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    for letter in "ab":
        PixelCache.open(tmp_path, key_of(letter), N, source)
    before = tree(tmp_path)
    free = 5 * 10**8 - 5 * N * ROW
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 0, free))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match="GB left"):
        PixelCache.open(tmp_path, key_of("c"), N, source)
    assert tree(tmp_path) == before


def test_what_stands_under_the_name_of_an_entry_stays(tmp_path: Path, source: Source) -> None:
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "photo.jpg").write_bytes(b"precious")
    with pytest.raises(OutputError, match="no entry of the cache"):
        PixelCache.open(tmp_path, "key", N, source)
    assert tree(tmp_path) == {"key/photo.jpg": b"precious"}


def test_the_folder_is_tagged_as_a_cache_when_it_was_made_for_it(tmp_path: Path, source: Source) -> None:
    PixelCache.open(tmp_path / "pixels", "key", N, source)
    assert (
        (tmp_path / "pixels" / "CACHEDIR.TAG").read_bytes().startswith(b"Signature: 8a477f597d28d172789f06886806bc55")
    )
    PixelCache.open(tmp_path, "key", N, source)
    assert not (tmp_path / "CACHEDIR.TAG").exists()


def victim_of(folder: Path) -> Path:
    victim = folder.parent / f"{folder.name}-victim"
    victim.write_bytes(b"precious" * 10**4)
    return victim


@pytest.mark.parametrize("name", ["rows.u8", "index.json"])
def test_a_link_in_an_entry_is_not_followed(tmp_path: Path, source: Source, name: str) -> None:
    victim = victim_of(tmp_path)
    (filled(tmp_path) / name).unlink()
    (tmp_path / "key" / name).symlink_to(victim)
    with suppress(OutputError):
        assert np.array_equal(read(PixelCache.open(tmp_path, "key", N, source)), IMAGES)
    assert victim.read_bytes() == b"precious" * 10**4


def test_a_link_for_an_entry_is_not_followed(tmp_path: Path, source: Source) -> None:
    elsewhere = filled(tmp_path / "elsewhere")
    (tmp_path / "key").symlink_to(elsewhere)
    (elsewhere / "index.json").write_text("{}")
    before = tree(elsewhere)
    with pytest.raises(OutputError, match="no entry"):
        PixelCache.open(tmp_path, "key", N, source)
    assert tree(elsewhere) == before


@pytest.mark.parametrize("name", ["rows.u8", "index.json"])
def test_a_pipe_in_an_entry_holds_nothing_up(tmp_path: Path, source: Source, name: str) -> None:
    (filled(tmp_path) / name).unlink()
    os.mkfifo(tmp_path / "key" / name)
    with suppress(OutputError):
        assert np.array_equal(read(PixelCache.open(tmp_path, "key", N, source)), IMAGES)


@pytest.mark.parametrize("place", ["", "key", "key/rows.u8", "key/index.json"])
@pytest.mark.parametrize("how", ["world", "group", "owner"])
def test_what_others_could_have_written_is_not_used(tmp_path: Path, source: Source, place: str, how: str) -> None:
    if how == "owner" and os.geteuid() != 0:
        pytest.skip("only root gives files away")
    filled(tmp_path)
    before = tree(tmp_path)
    path = tmp_path / place
    if how == "owner":
        os.chown(path, 1234, 1234)
    else:
        os.chown(path, -1, os.getgid() + 1) if os.geteuid() == 0 else None
        path.chmod(path.stat().st_mode | {"world": 0o002, "group": 0o020}[how])
    with pytest.raises(OutputError, match="belongs to another user" if how == "owner" else "other users can write"):
        PixelCache.open(tmp_path, "key", N, source)
    assert tree(tmp_path) == before


def test_without_room_nothing_is_written(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)
    with pytest.raises(OutputError, match="at most"):
        PixelCache.open(tmp_path, "other", N, source, limit=N * ROW - 1)
    assert [path.name for path in tmp_path.iterdir()] == ["key"]  # nor is anything removed for it

    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**12, 10**12, 10**8))  # type: ignore[attr-defined]
    with pytest.raises(OutputError, match=r"has 0\.1 GB left"):
        PixelCache.open(tmp_path, "other", N, source)
    assert not (tmp_path / "other").exists()
    assert source.asked == Counter({0: 2})


def test_a_disk_that_is_full_after_all(tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pixel_cache_module, "_check", full)
    with pytest.raises(OutputError, match="No space left"):
        PixelCache.open(tmp_path, "key", N, source)
    assert not [*tmp_path.iterdir()]


def test_a_folder_that_cannot_be_made(tmp_path: Path, source: Source) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot keep decoded images"):
        PixelCache.open(tmp_path / "file" / "pixels", "key", N, source)
