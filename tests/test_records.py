"""Records of files: JSON Lines and CSV, plain or gzip, one at a time, and errors that say what to do."""

from __future__ import annotations

import functools
import gzip
import io
import itertools
import os
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipebus.inputs.lines import BadInput
from pipebus.inputs.records import BadRecord, CsvRecords, JsonRecords, open_records
from tables import table

JSON_WANTED = "give a file of JSON Lines: one JSON value on each line"
CSV_WANTED = "give a CSV file whose first line names the columns"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A file with these bytes, or with this text in UTF-8."""

    def written(data: bytes | str, name: str = "file") -> Path:
        path = tmp_path / name
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return path

    return written


def taken(records: CsvRecords | JsonRecords) -> tuple[list[Any], str]:
    """What could be read, with the error texts of bad records, and why the reading stopped."""
    found: list[Any] = []
    try:
        with records:
            found.extend(f"bad: {one}" if isinstance(one, BadRecord) else one for one in records)
    except BadInput as error:
        return found, str(error)
    return found, ""


def rows(path: Path, *columns: str) -> tuple[list[Any], str]:
    """Read a CSV file; in errors, the path is cut to its name."""
    found, error = taken(CsvRecords(path, columns))
    named = [one.replace(str(path), path.name) if isinstance(one, str) else one for one in found]
    return named, error.replace(str(path), path.name)


def values(path: Path) -> tuple[list[Any], str]:
    """Read a file of JSON Lines; in errors, the path is cut to its name."""
    found, error = taken(JsonRecords(path))
    return (
        [one.replace(str(path), path.name) if isinstance(one, str) else one for one in found],
        error.replace(str(path), path.name),
    )


def zipped() -> bytes:
    """Return a zip archive with one file."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("records.jsonl", "1\n")
    return data.getvalue()


# --- JSON Lines ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b'{"a": 1}\n[2]\n"x"\nnull\ntrue\n1.5\n', [{"a": 1}, [2], "x", None, True, 1.5], id="any values"),
        pytest.param(b"1\n2", [1, 2], id="no line break at the end"),
        pytest.param(b"\xef\xbb\xbf1\n2\n", [1, 2], id="BOM"),
        pytest.param(b"\xef\xbb\xbf", [], id="BOM and nothing else"),
        pytest.param(b"1\r\n2\r\n", [1, 2], id="CRLF"),
        pytest.param(b"\n1\n\n  \n\t\r\n2\n\n", [1, 2], id="blank lines"),
        pytest.param(b"", [], id="empty"),
        pytest.param(b"\n\n", [], id="blank"),
        pytest.param(b"  1 \n", [1], id="spaces"),
        pytest.param(gzip.compress(b"1\n2\n"), [1, 2], id="gzip"),
        pytest.param(gzip.compress(b"\xef\xbb\xbf1\r\n2\n"), [1, 2], id="gzip with BOM"),
        pytest.param(gzip.compress(b"1\n") + gzip.compress(b"2\n"), [1, 2], id="gzip in two members"),
        pytest.param(gzip.compress(b""), [], id="gzip of nothing"),
        pytest.param('"a\u2028b\u2029c\x85d"\n2\n'.encode(), ["a\u2028b\u2029c\x85d", 2], id="U+2028 is no end of a line"),
        pytest.param(b'"\\ud800"\n', ["\ud800"], id="a lone surrogate, escaped"),
        pytest.param(b'"\\u0000"\n', ["\0"], id="NUL, escaped"),
        pytest.param(b"%d\n" % 10**4000, [10**4000], id="a huge whole number"),
    ],
)
def test_json_lines_are_values(write: Write, data: bytes, expected: list[Any]) -> None:
    """Each line that is not blank is one value."""
    assert values(write(data)) == (expected, "")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param(b"NaN", "NaN is not JSON", id="NaN"),
        pytest.param(b"[1, -Infinity]", "-Infinity is not JSON", id="-Infinity"),
        pytest.param(b'{"a": Infinity}', "Infinity is not JSON", id="Infinity"),
        pytest.param(b"[1e999]", "1e999", id="a number that is infinite"),
        pytest.param(b"hello", "Expecting value", id="a word"),
        pytest.param(b"1 2", "Extra data", id="two values"),
        pytest.param(b'{"a": 1', "Expecting ',' delimiter", id="a part of a value"),
        pytest.param(b"\0", "Expecting value", id="NUL"),
        pytest.param(b'"a\tb"', "Invalid control character", id="a tab in a text"),
        pytest.param(b"1\r2", "Extra data", id="a lone CR is no end of a line"),
        pytest.param(b"\xef\xbb\xbf1", "Unexpected UTF-8 BOM", id="BOM in the middle"),
        pytest.param(b"[" * 200_000 + b"]" * 200_000, "recursion", id="nested deeply"),
        pytest.param(b"9" * 5000, "5,000 digits", id="a whole number that Python refuses"),
    ],
)
def test_one_that_is_no_json_stands_in_its_place(write: Write, line: bytes, says: str) -> None:
    """The error has the line's number and is one line; the lines before and after it are read."""
    (first, bad, last), error = values(write(b"\n1\n" + line + b"\n2\n"))
    assert (first, last, error) == (1, 2, "")
    assert bad.startswith("bad: file:3: not JSON: ")
    assert says in bad
    assert "\n" not in bad


def test_a_bad_record_says_nothing_of_a_line_of_its_own(write: Write) -> None:
    """The json module counts lines within the record, so its "line 1 column 2" would contradict the line of the file."""
    assert values(write(b"1\n2\n{a}\n"))[0][2] == "bad: file:3: not JSON: Expecting property name enclosed in double quotes"


@pytest.mark.parametrize("line", [b'"\xff"', b'"\xed\xa0\x80"', b'{"\xff": 1}'], ids=["a byte", "a surrogate", "a key"])
def test_a_line_that_is_not_utf_8_is_one_bad_record(write: Write, line: bytes) -> None:
    """A stray byte costs its own line, and the error names the line."""
    (first, bad, last), error = values(write(b"1\n" + line + b"\n3\n"))
    assert (first, last, error) == (1, 3, "")
    assert bad.startswith("bad: file:2: not UTF-8: 'utf-8' codec can't decode byte 0x")


# --- CSV -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"a,b\n1,2\n3,4\n", [("1", "2"), ("3", "4")], id="rows"),
        pytest.param(b"a,b\n1,2", [("1", "2")], id="no line break at the end"),
        pytest.param(b"\xef\xbb\xbfa,b\n1,2\n", [("1", "2")], id="BOM"),
        pytest.param(b"a,b\r\n1,2\r\n", [("1", "2")], id="CRLF"),
        pytest.param(b"a,b\n\n1,2\n\r\n3,4\n\n", [("1", "2"), ("3", "4")], id="blank lines"),
        pytest.param(b'a,b\n"x\ny","1,5"\n"say ""hi""",\n', [("x\ny", "1,5"), ('say "hi"', "")], id="quotes"),
        pytest.param(b'a,b\n"x\r\ny",2\n', [("x\r\ny", "2")], id="CRLF in quotes stays"),
        pytest.param(gzip.compress(b"a,b\n1,2\n"), [("1", "2")], id="gzip"),
        pytest.param(gzip.compress(b"\xef\xbb\xbfa,b\n1,2\n"), [("1", "2")], id="gzip with BOM"),
        pytest.param("a,b\nx\u2028y,z\x85\n".encode(), [("x\u2028y", "z\x85")], id="U+2028 is no end of a line"),
        pytest.param(b"a,b\n 1 , 2\n", [(" 1 ", " 2")], id="spaces stay"),
        pytest.param(b"a,b\n" + b"9" * 5000 + b",NaN\n", [("9" * 5000, "NaN")], id="texts are texts"),
    ],
)
def test_csv_rows_are_mappings_of_texts(write: Write, data: bytes, expected: list[tuple[str, str]]) -> None:
    """Each row is a mapping whose keys are the names in the header."""
    found, error = rows(write(data), "a", "b")
    assert error == ""
    assert found == [{"a": a, "b": b} for a, b in expected]


def test_a_blank_line_of_one_column_is_no_record(write: Write) -> None:
    """A blank line is not a record, but an empty text in quotes is one."""
    assert rows(write('a\n1\n\n""\n')) == ([{"a": "1"}, {"a": ""}], "")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        pytest.param(b"", f"file is empty; {CSV_WANTED}", id="empty"),
        pytest.param(gzip.compress(b""), f"file is empty; {CSV_WANTED}", id="gzip of nothing"),
        pytest.param(b"a,b\n", f"file has a header but no records; {CSV_WANTED}", id="only a header"),
        pytest.param(b"a,b\n\n\n", f"file has a header but no records; {CSV_WANTED}", id="a header and blank lines"),
        pytest.param(b"a,\xff\n1,2\n", "not a CSV file in UTF-8", id="a header that is not text"),
        pytest.param(b'a,"b\n1,2\n', "not a CSV file (unexpected end of data)", id="a header whose quote does not end"),
    ],
)
def test_a_file_without_a_header_or_records_is_an_error(write: Write, data: bytes, says: str) -> None:
    """The file as a whole is wrong."""
    found, error = rows(write(data))
    assert found == []
    assert says in error


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        pytest.param(b"1,2\n3\n4,5\n", ["1", "bad: file:3: 1 fields where the header has 2", "4"], id="short"),
        pytest.param(b"1,2,3\n4,5\n", ["bad: file:2: 3 fields where the header has 2", "4"], id="too long"),
        pytest.param(b'"x\ny",2\n\n3\n4,5\n', ["x\ny", "bad: file:5: 1 fields", "4"], id="quoted line breaks count"),
        pytest.param(b"1,2\n3,\xff\n4,5\n", ["1", "bad: file:3: not UTF-8: ", "4"], id="not UTF-8"),
        pytest.param(b'1,2\n"3"x,4\n5,6\n', ["1", "bad: file:3: ',' expected after '\"'", "5"], id="text behind a quote"),
        pytest.param(
            b'1,2\n"3,4\n5,6\n7,8\n', ["1", "bad: file:3: unexpected end of data", "5", "7"], id="a quote without end"
        ),
        pytest.param(b'1,2\n"3,4\n5,"6"\n7,8\n', ["1", "bad: file:3: ',' expected", "5", "7"], id="a quote that ends too late"),
        pytest.param(b'"3,4\n5,6\n"7\n8,9\n', ["bad: file:2: ", "5", "bad: file:4: ", "8"], id="two quotes without end"),
    ],
)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_row_of_a_wrong_shape_is_one_bad_record(
    write: Write, lines: bytes, found: list[str], pack: Callable[[bytes], bytes]
) -> None:
    """The rows around it are read. A quote without an end costs its own line, not the rows that it swallows."""
    got, error = rows(write(pack(b"a,b\n" + lines)))
    assert error == ""
    shown = [one if isinstance(one, str) else one["a"] for one in got]
    assert all(one.startswith(start) for one, start in zip(shown, found, strict=True)), shown


@pytest.mark.parametrize(
    ("header", "says"),
    [
        pytest.param("a,b", "file: no column c, d in its first line, which begins 'a,b'", id="two are missing"),
        pytest.param("a,C,d", "file: no column c in its first line, which begins 'a,C,d'", id="upper case is another name"),
        pytest.param("x" * 80, f"file: no column a, c, d in its first line, which begins '{'x' * 60}'", id="long"),
        pytest.param("a;c;d", "file: no column a, c, d in its first line, which begins 'a;c;d'", id="semicolons"),
    ],
)
def test_missing_columns_are_named_before_the_first_row(write: Write, header: str, says: str) -> None:
    """The error also quotes the beginning of the line that is there instead."""
    found, error = rows(write(f"{header}\n1,2\n"), "a", "c", "d")
    assert (found, error) == ([], f"{says}; {CSV_WANTED}")


def test_columns_may_stand_in_any_order_beside_others(write: Write) -> None:
    """Only the requested columns must be present."""
    assert rows(write("z,b,a\n1,2,3\n"), "a", "b") == ([{"z": "1", "b": "2", "a": "3"}], "")


def test_a_column_that_is_named_twice_is_an_error(write: Write) -> None:
    """One of the two columns would be lost."""
    found, error = rows(write("a,b,a\n1,2,3\n"))
    assert found == []
    assert "a" in error


def test_a_blank_first_line_is_not_an_empty_file(write: Write) -> None:
    """A blank first line is skipped or named, but the error does not claim that the file is empty."""
    found, error = rows(write("\na,b\n1,2\n"))
    assert found == [{"a": "1", "b": "2"}] or "blank" in error


# --- files that cannot be read ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "wanted"), [(JsonRecords, JSON_WANTED), (CsvRecords, CSV_WANTED)], ids=["jsonl", "csv"])
class TestNoFile:
    """The error names the file, and says what to do."""

    def test_missing(self, tmp_path: Path, kind: Any, wanted: str) -> None:
        """The error names the file and says what to give instead."""
        path = tmp_path / "none"
        assert taken(kind(path)) == ([], f"{path}: no such file; {wanted}")

    def test_a_folder(self, tmp_path: Path, kind: Any, wanted: str) -> None:
        """The error quotes the system's own words."""
        assert taken(kind(tmp_path)) == ([], f"{tmp_path}: cannot be read (Is a directory); {wanted}")

    def test_a_zip_archive(self, write: Write, kind: Any, wanted: str) -> None:
        """The content shows that it is an archive, although the name says otherwise."""
        path = write(zipped(), "records.jsonl")
        text = f"{path} is a zip archive; unpack it first: unzip -p FILE | pipebus … --input -"
        assert taken(kind(path)) == ([], text)

    def test_what_only_begins_like_gzip(self, write: Write, kind: Any, wanted: str) -> None:
        """The error is a sentence and not a traceback of the gzip module."""
        path = write(b"\x1f\x8b\x08garbage, and no more than that")
        found, error = taken(kind(path))
        assert found == []
        assert error.startswith(f"{path}: broken gzip data (")
        assert error.endswith("; fetch or compress it again")

    def test_a_path_that_cannot_be(self, kind: Any, wanted: str) -> None:
        """The file name is longer than the system allows."""
        found, error = taken(kind("x" * 5000))
        assert found == []
        assert f": cannot be read (File name too long); {wanted}" in error


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda data: data[:-6], id="without its end"),
        pytest.param(lambda data: data[:-8] + bytes(8), id="with another checksum"),
        pytest.param(lambda data: data + b"garbage", id="with something behind it"),
    ],
)
def test_broken_gzip_is_told_after_the_good_lines(write: Write, cut: Callable[[bytes], bytes]) -> None:
    """What can be unpacked is read before the error."""
    found, error = values(write(cut(gzip.compress(b"1\n2\n3\n"))))
    assert found == [1, 2, 3]
    assert error.startswith("file: broken gzip data (")
    assert error.endswith("; fetch or compress it again")


def test_a_cut_gzip_file_of_csv_is_told_after_the_good_rows(write: Write) -> None:
    """A cut CSV file gives its good rows before the error, as a file of JSON Lines does."""
    found, error = rows(write(gzip.compress(b"a,b\n1,2\n3,4\n")[:-6]))
    assert error.startswith("file: broken gzip data (")
    assert found == [{"a": "1", "b": "2"}, {"a": "3", "b": "4"}]


def test_gzip_is_told_by_its_content(write: Write) -> None:
    """The content decides and not the name: a gzip file may have any name, and a file named .gz may be plain."""
    assert values(write(gzip.compress(b"1\n"), "plain.jsonl")) == ([1], "")
    assert values(write(b"1\n", "packed.jsonl.gz")) == ([1], "")


def test_the_original_error_is_kept() -> None:
    """The original error is the cause, for a user who debugs."""
    with pytest.raises(BadInput) as caught, JsonRecords("/nowhere/at/all"):
        pass
    assert isinstance(caught.value.__cause__, FileNotFoundError)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param(JsonRecords, b"1\n", id="jsonl"),
        pytest.param(CsvRecords, b"a\n1\n", id="csv"),
        pytest.param(CsvRecords, gzip.compress(b"a\n1\n"), id="csv, gzip"),
        pytest.param(CsvRecords, b"", id="empty csv"),
        pytest.param(JsonRecords, b"PK", id="zip"),
        pytest.param(CsvRecords, b"\x1f\x8b", id="cut gzip"),
    ],
)
def test_the_file_is_closed_whatever_happens(write: Write, kind: Any, data: bytes) -> None:
    """No file stays open, even one that could not be read as records."""
    path = write(data)
    taken(kind(path))
    open_ones = [os.readlink(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd") if _is_link(number)]
    assert str(path) not in open_ones


def _is_link(number: str) -> bool:
    """Return False for a descriptor that is already closed, such as the one that listed the folder."""
    return os.path.lexists(f"/proc/self/fd/{number}")


# --- by name ---------------------------------------------------------------------------------------------------------------


@table(
    ("name", "format", "kind"),
    [
        ("a.csv", None, CsvRecords),
        ("a.csv.gz", None, CsvRecords),
        ("A.CSV", None, CsvRecords),
        ("a.jsonl", None, JsonRecords),
        ("a.jsonl.gz", None, JsonRecords),
        ("a.ndjson", None, JsonRecords),
        ("csv", None, JsonRecords),
        ("a.csv.zip", None, JsonRecords),
        ("-", None, JsonRecords),
        ("-", "csv", CsvRecords),
        ("a.csv", "jsonl", JsonRecords),
        ("a.jsonl", "csv", CsvRecords),
    ],
)
def test_a_format_that_is_not_given_is_told_by_the_name(name: str, format: Any, kind: type) -> None:
    """The name decides, and a name without a known ending means JSON Lines; a given format wins."""
    assert type(open_records(name, format)) is kind


def test_nothing_is_opened_before_the_block(tmp_path: Path) -> None:
    """A missing file raises its error when the block is entered, not before."""
    records = open_records(str(tmp_path / "none.csv"), None)
    with pytest.raises(BadInput, match="no such file"):
        records.__enter__()


# --- one at a time, and how far ---------------------------------------------------------------------------------------------

MANY = 20_000
GZIP = functools.partial(gzip.compress, compresslevel=0)  # as large as its contents, so that it takes more than one block
LINES = b"".join(b'{"number": %d}\n' % number for number in range(MANY))
ROWS = b"number,half\n" + b"".join(b"%d,%d\n" % (number, number // 2) for number in range(MANY))


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        pytest.param(JsonRecords, LINES, id="jsonl"),
        pytest.param(JsonRecords, GZIP(LINES), id="jsonl, gzip"),
        pytest.param(CsvRecords, ROWS, id="csv"),
        pytest.param(CsvRecords, GZIP(ROWS), id="csv, gzip"),
    ],
)
def test_progress_goes_from_0_to_1_as_the_file_is_read(write: Write, kind: Any, data: bytes) -> None:
    """Progress never goes back, and the first record comes after reading at most a block of the file."""
    with kind(write(data)) as records:
        assert 0.0 <= records.progress < 0.7
        seen = [records.progress for _ in records]
        assert len(seen) == MANY
        assert 0.0 < seen[0] < 0.7
        assert seen == sorted(seen)
        assert seen[-1] == records.progress == 1.0
        assert len(set(seen)) > 1


def test_progress_of_an_empty_file_is_not_known(write: Write) -> None:
    """An empty file has no progress to show."""
    with JsonRecords(write(b"")) as records:
        assert records.progress is None
        assert list(records) == []


class Pipe:
    """A pipe: a thread writes lines, and counts the bytes that fit."""

    def __init__(self) -> None:
        self.read_end, self._write_end = os.pipe()
        self.path = f"/dev/fd/{self.read_end}"
        self.taken = 0

    def write(self, data: bytes) -> None:
        self.taken += os.write(self._write_end, data)

    def end(self) -> None:
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1

    def stop_reading(self) -> None:
        if self.read_end >= 0:
            os.close(self.read_end)
            self.read_end = -1

    def close(self) -> None:
        self.end()
        self.stop_reading()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with closing(Pipe()) as made:
        yield made


@pytest.mark.parametrize("kind", [JsonRecords, CsvRecords], ids=["jsonl", "csv"])
def test_records_come_from_a_pipe_as_soon_as_a_line_is_written(pipe: Pipe, kind: Any) -> None:
    """The writer waits until each record is taken, so a reader that reads ahead would wait until it gives up."""
    asked = threading.Semaphore(0)
    given_up: list[int] = []

    def writer() -> None:
        pipe.write(b"number\n" if kind is CsvRecords else b"\n")
        for number in (1, 2, 3, None):
            if not asked.acquire(timeout=30):
                given_up.append(number or 0)
                break
            if number is not None:
                pipe.write(b"%d\n" % number)
        pipe.end()

    thread = threading.Thread(target=writer, daemon=True)
    thread.start()
    found = []
    with kind(pipe.path) as records:
        assert records.progress is None
        asked.release()
        for record in records:
            found.append(record)
            assert records.progress is None
            asked.release()
    thread.join(60)
    assert given_up == []
    assert found == ([{"number": "1"}, {"number": "2"}, {"number": "3"}] if kind is CsvRecords else [1, 2, 3])


@pytest.mark.parametrize("kind", [JsonRecords, CsvRecords], ids=["jsonl", "csv"])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_long_source_is_read_as_far_as_it_is_asked(pipe: Pipe, kind: Any, packed: bool) -> None:
    """The first three records of a million come one at a time, and little more of the source is read."""

    def writer() -> None:
        data = io.BytesIO()
        out: Any = gzip.GzipFile(fileobj=data, mode="wb") if packed else data
        out.write(b"number\n" if kind is CsvRecords else b"")
        try:
            for number in range(1_000_000):  # a source that reads all of it fails, and does not hang
                out.write(b"%d\n" % number)
                if number % 1000 == 0 or not packed:
                    out.flush()
                    pipe.write(data.getvalue())
                    data.seek(0)
                    data.truncate()
        except BrokenPipeError:
            return  # nobody reads any longer
        finally:
            out.close()
        pipe.end()

    thread = threading.Thread(target=writer, daemon=True)
    thread.start()
    with kind(pipe.path) as records:
        first = list(itertools.islice(records, 3))
    pipe.stop_reading()
    thread.join(60)
    assert not thread.is_alive()
    assert first == ([{"number": str(number)} for number in range(3)] if kind is CsvRecords else [0, 1, 2])
    assert pipe.taken < 1_000_000


def test_standard_input_is_read_and_left_open(write: Write) -> None:
    """Standard input has its own name, and the reader does not close it."""
    path = write("1\nx\n")
    kept = os.dup(0)
    given = os.open(path, os.O_RDONLY)
    try:
        os.dup2(given, 0)
        found, error = taken(open_records("-", None))
        assert (found, error) == ([1, "bad: standard input:2: not JSON: Expecting value"], "")
        assert os.path.samestat(os.fstat(0), os.stat(path))
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(given)


def test_what_is_wrong_with_standard_input_names_it(write: Write) -> None:
    """The error names standard input, because there is no file to name."""
    kept = os.dup(0)
    given = os.open(write(""), os.O_RDONLY)
    try:
        os.dup2(given, 0)
        assert taken(CsvRecords("-")) == ([], f"standard input is empty; {CSV_WANTED}")
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(given)


def test_somebody_else_s_wish_is_told_in_its_place(tmp_path: Path) -> None:
    """`wanted` says what the user should give instead."""
    path = tmp_path / "none"
    assert taken(CsvRecords(path, wanted="leave --input out"))[1] == f"{path}: no such file; leave --input out"
