"""Tables that are written out while they change, against a plain ordered dict."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Raw

from headrace.engine.listing import STEP_BYTES, ListWriting
from headrace.engine.table import ENCODE, OrderedTable, Table, TableWriting

KEYS = st.integers(0, 12)


def pack(key: int, value: list[int]) -> tuple[Any, int]:
    """Write an entry as ``[key, values]``; it refers to its smallest value."""
    return [key, list(value)], min(value)


class TableMachine(RuleBasedStateMachine):
    """Any mixture of changes and steps of a writing."""

    table: Table[int, list[int]]
    ordered: bool

    @initialize(ordered=st.booleans())
    def begin(self, ordered: bool) -> None:
        """An ordered table promises more, and both keep what they promise."""
        self.ordered = ordered
        self.table = OrderedTable() if ordered else Table()
        self.model: OrderedDict[int, list[int]] = OrderedDict()
        self.writing: TableWriting[int, list[int]] | None = None
        self.written: list[Any] = []
        self.expected: list[Any] = []
        self.is_complete = False

    def listed(self) -> list[Any]:
        return [[key, value] for key, value in self.model.items()]

    @rule(key=KEYS, value=st.integers(1, 99))
    def store(self, key: int, value: int) -> None:
        self.table.store(key, [value])
        self.model[key] = [value]
        self.model.move_to_end(key)

    @rule(key=KEYS, value=st.integers(1, 99))
    def touch(self, key: int, value: int) -> None:
        if isinstance(self.table, OrderedTable):
            found = self.table.touch(key)
            assert found == self.model.get(key)
            if found is not None:
                found.append(value)  # a list that both share must not be: the model has its own
                self.model[key] = list(found)
                self.model.move_to_end(key)

    @rule(key=KEYS)
    def pop(self, key: int) -> None:
        assert self.table.pop(key) == self.model.pop(key, None)

    @rule()
    def pop_first(self) -> None:
        if isinstance(self.table, OrderedTable):
            first = self.table.first()
            assert first == next(iter(self.model.items()), None)
            if first is not None:
                self.table.pop(first[0])
                del self.model[first[0]]

    @rule()
    def clear(self) -> None:
        self.table.clear()
        self.model.clear()

    @precondition(lambda self: self.writing is None)
    @rule()
    def begin_writing(self) -> None:
        self.expected = msgspec.msgpack.decode(ENCODE(self.listed()))
        self.written, self.is_complete = [], False
        self.writing = self.table.write_out(pack)

    @precondition(lambda self: self.writing is not None)
    @rule(count=st.integers(1, 5))
    def step(self, count: int) -> None:
        assert self.writing is not None
        if not self.is_complete:
            entries = self.writing.step(count)
            assert len(entries) <= count
            self.written += msgspec.msgpack.decode(ENCODE(entries))
            self.is_complete = not entries
            if self.is_complete:
                assert sorted(self.written) == sorted(self.expected)
                assert self.written == self.expected or not self.ordered
                values = [value for _, values in self.expected for value in values]
                assert self.writing.oldest == (min(values) if values else None)
        elif self.writing.settle(count):
            self.writing = None

    @precondition(lambda self: self.writing is not None)
    @rule()
    def stop(self) -> None:
        assert self.writing is not None
        self.writing.stop()
        self.is_complete = True

    @invariant()
    def same(self) -> None:
        if not hasattr(self, "table"):
            return
        found = [[key, value] for key, value in self.table.items()]
        assert (found if self.ordered else sorted(found)) == (
            self.listed() if self.ordered else sorted(self.listed())
        )
        assert len(self.table) == len(self.model)
        for key in range(13):
            assert self.table.peek(key) == self.model.get(key)


TableMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestTable = pytest.mark.slow(TableMachine.TestCase)


def test_a_step_of_large_entries_is_a_short_one() -> None:
    """Whoever writes a list out lets others have their turn, however large its entries are."""
    entries = [bytes([number]) * (STEP_BYTES // 4) for number in range(20)]
    writing = ListWriting(entries, lambda entry: Raw(ENCODE(entry)))
    steps: list[list[bytes]] = []
    while step := writing.step(64):
        steps.append([msgspec.msgpack.decode(raw) for raw in step])

    assert [entry for step in steps for entry in step] == entries
    assert {len(step) for step in steps} == {4}
    assert len(ListWriting(range(20), lambda entry: Raw(ENCODE(entry))).step(7)) == 7
