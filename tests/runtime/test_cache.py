"""The cache folder: where it is, and that nothing is read from where others can write."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from edgetl_runtime.cache import CACHE_VARIABLE, CacheWarning, cache_folder, keep, own_cache


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize(("chosen", "found"), [("~/c", "c"), ("~", "."), ("~/a/~/b", "a/~/b")])
def test_a_tilde_is_the_home(home: Path, chosen: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, chosen)
    assert cache_folder() == home / found
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", chosen)
    assert cache_folder() == home / found / "edgetl"


@pytest.mark.parametrize("variable", [CACHE_VARIABLE, "XDG_CACHE_HOME"])
def test_the_home_of_nobody_is_no_cache(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    monkeypatch.setenv(variable, "~nobody-of-this-name/c")
    assert cache_folder() is None
    assert own_cache("choices") is None


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_made_that_others_cannot_write_to(cache: Path) -> None:
    before = os.umask(0)
    try:
        keep(cache / "choices" / "a.json", b"1")
    finally:
        os.umask(before)
    assert stat.S_IMODE((cache / "choices").stat().st_mode) == 0o755
    assert own_cache("choices") == cache / "choices"


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o775])
def test_a_folder_that_others_can_write_to_is_not_used_and_said(cache: Path, mode: int) -> None:
    (cache / "choices").mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(cache / "choices", -1, os.getgid() + 1)
    (cache / "choices").chmod(mode)
    with pytest.warns(CacheWarning, match="other users can write.*chmod go-w"):
        assert own_cache("choices") is None
    keep(cache / "choices" / "a.json", b"1")
    assert not list((cache / "choices").iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
@pytest.mark.parametrize("link", [True, False])
def test_a_folder_or_link_of_another_user_is_not_used_and_said(cache: Path, link: bool, tmp_path: Path) -> None:
    cache.mkdir()
    if link:
        (tmp_path / "mine").mkdir()
        (cache / "choices").symlink_to(tmp_path / "mine")
    else:
        (cache / "choices").mkdir()
    os.chown(cache / "choices", 1234, 1234, follow_symlinks=False)
    with pytest.warns(CacheWarning, match="belongs to another user"):
        assert own_cache("choices") is None


def test_ones_own_link_to_another_disk_is_used(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir(mode=0o755)
    cache.mkdir()
    (cache / "choices").symlink_to(tmp_path / "disk")
    assert own_cache("choices") == cache / "choices"
    keep(cache / "choices" / "a.json", b"1")
    assert (tmp_path / "disk" / "a.json").read_bytes() == b"1"


def test_a_group_of_ones_own_is_nobody_else(
    cache: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """As on systems where everybody's files are writable by a group that has only themselves in it."""
    (cache / "choices").mkdir(parents=True)
    (cache / "choices").chmod(0o775)
    there = (cache / "choices").stat()
    assert (own_cache("choices") is not None) == (there.st_uid == there.st_gid)
