"""Whether a TFLite file is one that LiteRT can follow: it trusts every offset and index in it.

Tables are read many at a time with numpy: 1,000 tensors take 3 ms. Numbers of fields are those of the schema.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from edgetl_runtime.binary import DamagedFile

if TYPE_CHECKING:
    import numpy.typing as npt

    Integers = npt.NDArray[np.int64]

__all__ = ["check_tflite"]

_MOST_TABLES = 1_000_000  # of one kind
_MOST_VALUES = 5_000_000  # of one kind of list together: lists may lie over each other
_MOST_SUBGRAPHS = 256
_MOST_DIMENSIONS = 16
_LARGEST_TENSOR = 2**31  # elements
_LSTM = (16, 44, 52)  # builtin codes of those that may leave out their second input
_CALLS = (31, 118, 119, 129)  # CALL, IF, WHILE, CALL_ONCE: their options begin with numbers of subgraphs
_TWO_CALLS = (118, 119)
_SPLIT = 49
_INPUTS = {45: 4, _SPLIT: 2, 126: 2}
"""STRIDED_SLICE, SPLIT, BATCH_MATMUL: LiteRT 2.3 refuses other numbers of inputs, and ends the process when it has."""


def check_tflite(content: bytes) -> str | None:
    """What the file would read elsewhere, None when nothing. Raises `DamagedFile` when it does not hold together."""
    if content[4:8] != b"TFL3":
        raise DamagedFile("its file identifier is not TFL3")
    flat = _Flat(content)
    model = _Tables(flat, flat.take("<u4", np.zeros(1, np.int64)), "model")
    codes, graphs, buffers = (model.inner(field, what) for field, what in _PARTS)
    if not len(graphs) or len(graphs) > _MOST_SUBGRAPHS:
        raise DamagedFile(f"it has {len(graphs)} subgraphs")
    model.vectors(3, 1)  # description
    codes.vectors(1, 1)  # custom code
    kinds = np.maximum(codes.numbers(0, "<i1"), codes.numbers(3, "<i4"))
    filled = _filled(flat, buffers)
    metadata = model.inner(6, "metadata")
    metadata.vectors(0, 1)
    _in_range(metadata.numbers(1, "<u4"), len(buffers), "buffer of metadata")
    if model.vectors(8, 4)[1].any() or model.vectors(9, 4)[1].any():
        return "it has external buffers"
    sizes, calls = [], []
    for place in range(len(graphs)):
        graph = _Graph(flat, graphs.only(np.array([place])), filled, kinds)
        if graph.tensors.numbers(10, "<u4").any():
            return "a tensor has an external buffer"
        sizes.append(len(graph.tensors))
        calls.append(graph.called())
    _check_calls(calls)
    _check_signatures(model, sizes)
    return None


_PARTS = ((1, "operator code"), (2, "subgraph"), (4, "buffer"))


class _Flat:
    """The bytes, read at any places at once."""

    def __init__(self, content: bytes) -> None:
        self.size = len(content)
        self._content = content

    def take(self, kind: str, positions: Integers) -> Integers:
        """The numbers of the type `kind` that begin at `positions`."""
        width = np.dtype(kind).itemsize
        if len(positions) and (positions.min() < 0 or positions.max() > self.size - width):
            raise DamagedFile("an offset leads out of the file")
        if not len(positions):
            return positions
        # A number begins at every byte: nothing in a damaged file has to be aligned.
        every: npt.NDArray[Any] = np.ndarray((self.size - width + 1,), kind, self._content, 0, (1,))
        return every[positions].astype(np.int64)

    def values(self, kind: str, starts: Integers, counts: Integers) -> tuple[Integers, Integers, Integers]:
        """All values of lists: the values, the number of the list of each, and its place in that."""
        total = int(counts.sum())
        if total > _MOST_VALUES:
            raise DamagedFile(f"lists of {total} values")
        owners = np.repeat(np.arange(len(counts)), counts)
        places = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.take(kind, starts[owners] + places * np.dtype(kind).itemsize), owners, places


class _Tables:
    """Tables of one kind. A field that is left out is at position 0."""

    def __init__(self, flat: _Flat, positions: Integers, what: str) -> None:
        self._flat = flat
        self._positions = positions
        self._what = what
        self._vtables = positions - flat.take("<i4", positions)
        self._sizes = flat.take("<u2", self._vtables)
        self._own = flat.take("<u2", self._vtables + 2)
        if (self._vtables + self._sizes > flat.size).any() or (positions + self._own > flat.size).any():
            raise DamagedFile(f"a {what} leads out of the file")

    def __len__(self) -> int:
        return len(self._positions)

    def only(self, which: npt.NDArray[Any]) -> _Tables:
        """Some of the tables."""
        return _Tables(self._flat, self._positions[which], self._what)

    def field(self, number: int, width: int) -> Integers:
        """Where the field `number`, of `width` bytes, is in each table."""
        found = np.zeros(len(self), np.int64)
        there = np.flatnonzero(self._sizes >= 6 + 2 * number)
        offsets = self._flat.take("<u2", self._vtables[there] + 4 + 2 * number)
        if (offsets + width * (offsets > 0) > self._own[there]).any():
            raise DamagedFile(f"a {self._what} has a field outside of itself")
        found[there] = np.where(offsets > 0, self._positions[there] + offsets, 0)
        return found

    def numbers(self, number: int, kind: str, default: int = 0) -> Integers:
        """A field that is a number."""
        places = self.field(number, np.dtype(kind).itemsize)
        found = np.full(len(self), default, np.int64)
        there = np.flatnonzero(places)
        found[there] = self._flat.take(kind, places[there])
        return found

    def vectors(self, number: int, width: int) -> tuple[Integers, Integers]:
        """A field that is a list of values of `width` bytes: where the first is, and how many there are."""
        places = self.field(number, 4)
        starts, counts = np.zeros(len(self), np.int64), np.zeros(len(self), np.int64)
        there = np.flatnonzero(places)
        starts[there] = places[there] + self._flat.take("<u4", places[there])
        counts[there] = self._flat.take("<u4", starts[there])
        if (starts + 4 + counts * width > self._flat.size).any():
            raise DamagedFile(f"a list of a {self._what} leads out of the file")
        return starts + 4, counts

    def values(self, number: int, kind: str = "<i4") -> tuple[Integers, Integers, Integers]:
        """As `_Flat.values`, of a field that is a list of numbers."""
        return self._flat.values(kind, *self.vectors(number, np.dtype(kind).itemsize))

    def tables(self, number: int, what: str) -> tuple[_Tables, Integers]:
        """A field that is a table: those that are there, and whose they are."""
        places = self.field(number, 4)
        there = np.flatnonzero(places)
        return _Tables(self._flat, places[there] + self._flat.take("<u4", places[there]), what), there

    def inner(self, number: int, what: str) -> _Tables:
        """A field that is a list of tables, of all tables together."""
        starts, counts = self.vectors(number, 4)
        if counts.sum() > _MOST_TABLES:
            raise DamagedFile(f"it has {counts.sum()} of the kind {what}")
        values, owners, places = self._flat.values("<u4", starts, counts)
        return _Tables(self._flat, starts[owners] + 4 * places + values, what)


def _filled(flat: _Flat, buffers: _Tables) -> npt.NDArray[np.bool_]:
    """Which buffers have data. Number 0 stands for none."""
    _, counts = buffers.vectors(0, 1)
    offsets, sizes = buffers.numbers(1, "<u8"), buffers.numbers(2, "<u8")
    if (offsets < 0).any() or (sizes < 0).any() or (sizes > flat.size).any() or (offsets + sizes > flat.size).any():
        raise DamagedFile("a buffer leads out of the file")
    filled: npt.NDArray[np.bool_] = (counts > 0) | ((offsets > 1) & (sizes > 0))
    filled[:1] = False
    return filled


class _Graph:
    """A subgraph: its tensors and operators, checked."""

    def __init__(self, flat: _Flat, graph: _Tables, filled: npt.NDArray[np.bool_], kinds: Integers) -> None:
        self.tensors = graph.inner(0, "tensor")
        self.operators = graph.inner(3, "operator")
        graph.vectors(4, 1)  # name
        buffers = self.tensors.numbers(2, "<u4")
        _in_range(buffers, len(filled), "buffer of a tensor")
        shapes = _shapes(self.tensors)
        _check_quantization(self.tensors, shapes)
        _check_options(flat, self.operators)
        codes = self.operators.numbers(0, "<u4")
        _in_range(codes, len(kinds), "code of an operator")
        self._kinds = kinds[codes]
        given, _, _ = graph.values(1)
        wanted, _, _ = graph.values(2)
        _in_range(given, len(self.tensors), "input of a subgraph")
        _in_range(wanted, len(self.tensors), "output of a subgraph")
        # What an operator may read before another has written it; nothing is read of what has no elements.
        constant = filled[buffers]
        ready = constant | (self.tensors.numbers(5, "<u1") != 0) | (shapes.prod(axis=1) == 0)
        ready[given] = True
        self._check_order(given, wanted, constant, ready)
        self._check_numbers()

    def _check_numbers(self) -> None:
        """How many inputs and outputs operators have, of the kinds that end the process when it is another number."""
        (_, inputs), (_, outputs) = self.operators.vectors(1, 4), self.operators.vectors(2, 4)
        splits = outputs.copy()
        splits[self._kinds == _SPLIT] = 0
        options, owners = self.operators.tables(4, "options of an operator")
        splitting = self._kinds[owners] == _SPLIT
        splits[owners[splitting]] = options.only(splitting).numbers(0, "<i4")
        if (splits != outputs).any() or any((inputs[self._kinds == kind] != n).any() for kind, n in _INPUTS.items()):
            raise DamagedFile("an operator has more or fewer inputs or outputs than its kind")

    def _check_order(
        self, given: Integers, wanted: Integers, constant: npt.NDArray[np.bool_], ready: npt.NDArray[np.bool_]
    ) -> None:
        inputs, readers, places = self.operators.values(1)
        outputs, writers, _ = self.operators.values(2)
        _in_range(outputs, len(self.tensors), "output of an operator")
        optional = (places > 1) | ((places == 1) & np.isin(self._kinds[readers], _LSTM))
        _in_range(inputs[(inputs != -1) | ~optional], len(self.tensors), "input of an operator")
        inner, _, _ = self.operators.values(8)
        _in_range(inner, len(self.tensors), "intermediate tensor of an operator")
        if constant[outputs].any() or np.isin(outputs, given).any() or len(np.unique(outputs)) < len(outputs):
            raise DamagedFile("an operator writes what is not its own")
        written = np.full(len(self.tensors), len(self.operators), np.int64)
        written[outputs] = writers
        there = inputs >= 0
        early = ~ready[inputs[there]] & (written[inputs[there]] >= readers[there])
        if early.any() or (~ready[wanted] & (written[wanted] == len(self.operators))).any():
            raise DamagedFile("a tensor is read that nothing has written")

    def called(self) -> list[int]:
        """The subgraphs that its operators run."""
        options, owners = self.operators.tables(4, "options of an operator")
        kinds = self._kinds[owners]
        first = options.only(np.isin(kinds, _CALLS)).numbers(0, "<i4")
        second = options.only(np.isin(kinds, _TWO_CALLS)).numbers(1, "<i4")
        return [int(number) for number in (*first, *second)]


def _shapes(tensors: _Tables) -> npt.NDArray[np.float64]:
    """Shapes of tensors, with ones behind them (n, most dimensions): in floats, which do not overflow."""
    sizes, owners, places = tensors.values(0)
    tensors.vectors(3, 1)  # name
    tensors.vectors(7, 4)  # shape signature
    if len(places) and places.max() >= _MOST_DIMENSIONS:
        raise DamagedFile(f"a tensor has more than {_MOST_DIMENSIONS} dimensions")
    shapes = np.ones((len(tensors), int(places.max()) + 1 if len(places) else 1))
    shapes[owners, places] = sizes
    if (sizes < 0).any() or (shapes.prod(axis=1) > _LARGEST_TENSOR).any():
        raise DamagedFile("a tensor has a size that none has")
    return shapes


def _check_quantization(tensors: _Tables, shapes: npt.NDArray[np.float64]) -> None:
    found, owners = tensors.tables(4, "quantization")
    found.vectors(0, 4), found.vectors(1, 4)  # least and greatest values
    (_, scales), (_, zeros) = found.vectors(2, 4), found.vectors(3, 8)
    found.tables(5, "quantization's details")
    dimension = found.numbers(6, "<i4")
    several = scales > 1
    _in_range(dimension[several], shapes.shape[1], "quantized dimension")
    along = shapes[owners[several], dimension[several]]
    if (along != scales[several]).any() or ((zeros > 1) & (zeros != scales)).any():
        raise DamagedFile("a tensor has more or fewer scales than channels")
    sparse, _ = tensors.tables(6, "sparsity")
    sparse.vectors(0, 4), sparse.vectors(1, 4), sparse.inner(2, "dimension of a sparse tensor")
    tensors.inner(9, "variant of a tensor")


def _check_options(flat: _Flat, operators: _Tables) -> None:
    operators.vectors(5, 1), operators.vectors(7, 1)
    operators.tables(12, "options of an operator")
    offsets, sizes = operators.numbers(9, "<u8"), operators.numbers(10, "<u8")
    if min(offsets.min(initial=0), sizes.min(initial=0)) < 0 or (np.maximum(offsets, sizes) > flat.size).any():
        raise DamagedFile("options of an operator lead out of the file")
    if (offsets + sizes > flat.size).any():
        raise DamagedFile("options of an operator lead out of the file")


def _check_calls(calls: list[list[int]]) -> None:
    """Raises `DamagedFile` when a subgraph runs one that is not there, or, at last, itself."""
    for numbers in calls:
        _in_range(np.array(numbers, np.int64), len(calls), "subgraph of an operator")
    left = dict(enumerate(calls))
    while left:
        done = [place for place, numbers in left.items() if not any(number in left for number in numbers)]
        if not done:
            raise DamagedFile("a subgraph runs itself")
        for place in done:
            del left[place]


def _check_signatures(model: _Tables, sizes: list[int]) -> None:
    signatures = model.inner(7, "signature")
    graphs = signatures.numbers(4, "<u4")
    _in_range(graphs, len(sizes), "subgraph of a signature")
    for place in range(len(signatures)):
        signature = signatures.only(np.array([place]))
        for maps in _maps(signature):
            _in_range(maps.numbers(1, "<u4"), sizes[int(graphs[place])], "tensor of a signature")
            if not maps.field(0, 4).all() or not signature.field(2, 4).all():
                raise DamagedFile("a signature has no name")
            maps.vectors(0, 1), signature.vectors(2, 1)


def _maps(signature: _Tables) -> Iterator[_Tables]:
    yield signature.inner(0, "input of a signature")
    yield signature.inner(1, "output of a signature")


def _in_range(numbers: Integers, end: int, what: str) -> None:
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= end):
        raise DamagedFile(f"a {what} is not one of the {end} that there are")
