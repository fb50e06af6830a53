"""A sealed file is held against itself; one from before there were seals is taken as it is."""

from __future__ import annotations

import json

import pytest

from edgetl_export.sealing import sealed, with_room_for_seal
from edgetl_runtime import BundleError, ExportError
from edgetl_runtime.seal import Sealed

TEXT = json.dumps({"schema": 1, "name": "ä"}, ensure_ascii=False, separators=(",", ":"))


def files(text: str = TEXT) -> tuple[bytes, bytes]:
    main, weights = sealed((b"head " + with_room_for_seal(text).encode() + b" tail", b"weights"))
    return main, weights


def check(main: bytes, *others: bytes) -> None:
    text = main.removeprefix(b"head ").removesuffix(b" tail")
    Sealed("model.xml", (main, *others), text).check()


def test_what_was_sealed_passes() -> None:
    check(*files())
    assert len(files()[0]) == len(b"head " + with_room_for_seal(TEXT).encode() + b" tail")


def test_every_changed_bit_is_found() -> None:
    main, weights = files()
    for place in range(len(main)):
        for bit in range(8):
            damaged = bytearray(main)
            damaged[place] ^= 1 << bit
            with pytest.raises(BundleError, match=r"model\.xml is not the file that was exported"):
                check(bytes(damaged), weights)


def test_other_weights_and_other_lengths_are_found() -> None:
    main, weights = files()
    with pytest.raises(BundleError, match="SHA-256 differs"):
        check(main, b"weightz")
    with pytest.raises(BundleError, match=f"{len(main) + 3} bytes, {len(main) + 7} when it was exported"):
        check(main, weights[:3])


def test_a_seal_that_was_taken_out_is_missed() -> None:
    main, weights = files()
    start = main.index(b',"seal"')
    with pytest.raises(BundleError, match="seal is damaged"):
        check(main[:start] + b"} tail", weights)
    with pytest.raises(BundleError, match="exported"):
        check(main.replace(b'"sealed":true,', b""), weights)


def test_files_from_before_pass() -> None:
    check(b"head " + TEXT.encode() + b" tail", b"weights")


def test_the_fields_stand_apart_and_keep_the_layout() -> None:
    assert list(json.loads(with_room_for_seal(TEXT))) == ["sealed", "schema", "name", "seal"]
    indented = with_room_for_seal(json.dumps(json.loads(TEXT), indent=1))
    assert indented.startswith('{\n "sealed": true,\n "schema": 1')
    again = with_room_for_seal(files(TEXT)[0].decode().removeprefix("head ").removesuffix(" tail"))
    assert again == with_room_for_seal(TEXT)


@pytest.mark.parametrize("content", [b"nothing", with_room_for_seal(TEXT).encode() * 2])
def test_there_must_be_one_place(content: bytes) -> None:
    with pytest.raises(ExportError, match="places for its seal"):
        sealed([content])
