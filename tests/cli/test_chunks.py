"""What waits is answered, what is at fault spoils nothing else, and what did not go in as it stood is counted."""

import os
import threading
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkv.cli import chunks
from qkv.cli.chunks import Tally, answers, in_chunks
from qkv.errors import FaultyItems, UserError

LINES = st.lists(st.binary(max_size=6).map(lambda line: line.replace(b"\n", b"") + b"\n"), max_size=30)


class TestWaiting:
    @settings(max_examples=40, deadline=None)
    @given(LINES, st.data())
    def test_all_lines_come_however_they_are_written(self, lines, data):
        """In one go, line by line, in the middle of a line: in order, none lost, none twice, no chunk too large."""
        content = b"".join(lines)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
        reading, writing = os.pipe()

        def write():
            with open(writing, "wb", buffering=0) as file:
                for first, last in zip([0, *cuts], [*cuts, len(content)], strict=True):
                    file.write(content[first:last])

        writer = threading.Thread(target=write)
        writer.start()
        with pytest.MonkeyPatch.context() as patch, open(reading, "rb") as stream:
            patch.setattr(chunks, "ITEMS_AT_ONCE", 7)
            found = list(chunks._waiting(stream))
        writer.join()
        assert [line for chunk in found for line in chunk] == lines
        assert all(1 <= len(chunk) <= 7 for chunk in found)

    def test_a_line_is_there_before_the_next_is_written(self):
        reading, writing = os.pipe()
        with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as file:
            found = chunks._waiting(stream)
            for line in (b"a\n", b"b\n", b"c\n"):
                file.write(line)
                assert next(found) == [line]
            file.write(b"no end of line")
            file.close()
            assert list(found) == [[b"no end of line"]]

    def test_what_has_gathered_meanwhile_is_one_chunk(self):
        reading, writing = os.pipe()
        with open(reading, "rb") as stream, open(writing, "wb", buffering=0) as file:
            found = chunks._waiting(stream)
            file.write(b"a\n")
            assert next(found) == [b"a\n"]
            file.write(b"b\n" * 500)
            file.close()
            assert max(map(len, found)) > 50, "a fast writer's lines are worked on together"

    def test_a_fault_of_the_disk_is_told(self):
        def lines():
            yield b"a\n"
            raise OSError(5, "Input/output error")

        found = chunks._waiting(lines())
        assert next(found) == [b"a\n"]
        with pytest.raises(OSError, match="Input/output error"):
            next(found)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(1, 9), st.one_of(st.none(), st.integers(0, 40)))
def test_what_comes_before_a_fault_is_a_chunk(length, size, fault):
    def items():
        for number in range(length):
            if number == fault:
                raise UserError("bad")
            yield number

    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "ITEMS_AT_ONCE", size)
        if fault is not None and fault < length:
            with pytest.raises(UserError, match="bad"):
                found.extend(in_chunks(items()))
            length = fault
        else:
            found.extend(in_chunks(items()))
    assert [number for chunk in found for number in chunk] == list(range(length))
    assert all(1 <= len(chunk) <= size for chunk in found)


KINDS = st.lists(st.lists(st.sampled_from(["good", "unreadable", "too long"]), min_size=1, max_size=6), max_size=6)


def read(number, kind):
    if kind == "unreadable":
        raise UserError(f"input:{number}: not valid")
    return kind


def work(numbers, kinds):
    faulty = {index: "has 9 tokens" for index, kind in enumerate(kinds) if kind == "too long"}
    if faulty:
        raise FaultyItems("source", faulty)
    return [f"answer {number}" for number in numbers]


def said_of(number, kind):
    return f"input:{number}: not valid" if kind == "unreadable" else f"input:{number}: the source has 9 tokens"


class TestBadLines:
    @given(KINDS)
    def test_skipping_leaves_every_other_line_its_answer(self, kinds):
        tally, numbered = Tally("input:{}".format), list(zip(count(1), (k for chunk in kinds for k in chunk)))
        found = list(answers(kinds, read, work, tally, skip=True))
        assert found == [f"answer {number}" if kind == "good" else None for number, kind in numbered]
        assert tally._skipped == [said_of(number, kind) for number, kind in numbered if kind != "good"]

    @given(KINDS)
    def test_stopping_answers_all_that_comes_before_and_names_the_line(self, kinds):
        tally, numbered = Tally("input:{}".format), list(zip(count(1), (k for chunk in kinds for k in chunk)))
        bad = [said_of(number, kind) for number, kind in numbered if kind != "good"]
        found = []

        def collect():
            for answer in answers(kinds, read, work, tally):
                found.append(answer)  # what comes before an error counts

        if bad:
            with pytest.raises(UserError, match=f"^{bad[0]}$"):
                collect()
        else:
            collect()
        good = [f"answer {number}" for number, kind in numbered if kind == "good"]
        first_bad = next((number for number, kind in numbered if kind != "good"), len(numbered) + 1)
        assert found == good[: first_bad - 1]


class TestTally:
    def test_nothing_to_tell_is_nothing_told(self, capsys):
        Tally("line {}".format).tell()
        assert capsys.readouterr() == ("", "")

    def test_each_kind_is_a_line_with_its_count_and_the_first_place(self, capsys):
        tally = Tally("in:{}".format)
        tally.skip("in:2: not valid UTF-8")
        for number in (5, 9):
            tally.cut(number, 70, 64)
        tally.unknown(4, ["é", "\u0301\n"])
        tally.unknown(8, ["é"])
        tally.tell()
        assert capsys.readouterr().err.splitlines() == [
            "qkv: 1 line was skipped, the first: in:2: not valid UTF-8",
            "qkv: 2 sources were cut, the first at in:5, from 70 tokens to 64",
            r"qkv: 3 symbols that the model does not know on 2 lines, the first at in:4: é \u0301\n",
        ]

    def test_of_many_unknown_symbols_the_commonest_are_shown(self, capsys):
        tally = Tally("in:{}".format)
        tally.unknown(1, [chr(0x400 + index) for index in range(30)] + ["x"])
        tally.unknown(2, ["x"])
        tally.tell()
        said = capsys.readouterr().err
        assert said.startswith("qkv: 32 symbols that the model does not know on 2 lines, the first at in:1: x ")
        assert said.endswith(" …\n")
        assert len(said) < 120
