"""`pipebus demo` as a person or a shell script meets it: a real process each time."""

import gzip
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import ENV, PIPEBUS, WITHOUT_RICH, on_terminal, plain, run

from pipebus.demo.records import PACKAGED_DAY

DAY = PACKAGED_DAY.read_bytes()


def run_on_terminal(*args: str, program: list[str] = PIPEBUS) -> str:
    """Return everything that a terminal with 100 columns received."""
    done = on_terminal(*args, program=program)
    assert done.code == 0
    return plain(done.raw)


def figures(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class TestFigures:
    def test_the_last_line_is_the_figures_of_the_packaged_day(self) -> None:
        """`pipebus demo --json` gives a script the figures of the day and nothing else."""
        done = run("demo", "--json")

        found = figures(done)
        assert (found["published"], found["accepted"], found["rejected"]) == (842, 831, 11)
        assert (found["alerts"], found["subjects"]) == (62, 29)
        assert found["carriers"]["EV"] == {"flights": 112, "mean_arrival_delay": 41.366}
        assert found["carriers"]["UA"] == {"flights": 164, "mean_arrival_delay": 6.268}
        assert found["carriers"]["DL"] == {"flights": 112, "mean_arrival_delay": -7.58}
        assert found["elapsed_s"] >= 0
        assert done.stderr == ""

    def test_a_file_of_ones_own_is_read_compressed(self, tmp_path: Path) -> None:
        """A file with the day twice is read from gzip."""
        path = tmp_path / "days.csv.gz"
        path.write_bytes(gzip.compress(DAY + DAY.partition(b"\n")[2]))

        found = figures(run("demo", "--json", "--input", str(path)))

        assert (found["published"], found["accepted"], found["alerts"]) == (2 * 842, 2 * 831, 2 * 62)
        assert found["carriers"]["EV"] == {"flights": 224, "mean_arrival_delay": 41.366}

    def test_a_dash_is_standard_input(self) -> None:
        """The command can be at the end of a pipe."""
        found = figures(run("demo", "--json", "--input", "-", input=DAY.decode()))

        assert found["accepted"] == 831

    def test_log_shows_each_message_on_stderr_and_leaves_stdout_alone(self) -> None:
        """A user who passes `--log` sees the lines of the Log filter."""
        done = run("demo", "--json", "--log")

        assert figures(done)["accepted"] == 831
        assert len(done.stderr.splitlines()) >= 842


class TestTable:
    @pytest.mark.parametrize("program", [PIPEBUS, WITHOUT_RICH], ids=["with rich", "without rich"])
    def test_a_terminal_shows_progress_and_ends_with_a_table(self, program: list[str]) -> None:
        """The extra makes the output prettier, but the facts are the same without it."""
        text = run_on_terminal("demo", program=program)

        assert re.search(r"100% +831 accepted, 11 rejected *\S*\r", text)  # the progress, at its end
        assert re.search(r"EV +ExpressJet +112 +\+41\.4 min", text)
        assert "842 published, 831 accepted, 11 rejected (7 no arrival delay, 4 no departure time)" in text
        assert text.index("ExpressJet") < text.index("Delta")  # the latest first

    def test_a_pipe_gets_the_table_without_colours(self) -> None:
        """Output for a file or grep has no control characters."""
        done = run("demo")

        assert "\x1b" not in done.stdout
        assert re.search(r"EV +ExpressJet +112 +\+41\.4 min", done.stdout)
        assert done.stderr == ""

    def test_a_terminal_that_knows_only_ascii_gets_ascii(self) -> None:
        """An old locale does not cause a traceback."""
        done = run("demo", env=ENV | {"PYTHONIOENCODING": "ascii"})

        assert done.returncode == 0
        assert done.stdout.isascii()


class TestCarrier:
    @pytest.mark.parametrize("code", ["UA", "ua"])
    @pytest.mark.thorough
    def test_one_carrier_is_one_line_of_the_table(self, code: str) -> None:
        """The line for one carrier is the line that the whole table has for it, and no other is shown."""
        whole = run("demo").stdout.splitlines()
        done = run("demo", "--carrier", code)

        assert done.returncode == 0
        assert done.stderr == ""
        head, line, blank, legend = done.stdout.splitlines()
        assert re.match(r"UA United +164 +\+6\.3 min +28% +4 ", line)
        assert blank == ""
        assert {head, line, legend} <= set(whole)

    def test_one_carrier_as_json(self) -> None:
        """A script gets one object."""
        found = figures(run("demo", "--carrier", "UA", "--json"))

        assert found == {"carrier": "UA", "flights": 164, "mean_arrival_delay": 6.268, "late": 46, "alerts": 4}

    def test_a_carrier_that_is_not_there_is_one_line_that_names_those_that_are(self) -> None:
        """The error lists the carriers that can be asked for instead."""
        done = run("demo", "--carrier", "XX")

        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr == (
            "pipebus demo: no flight of 'XX' was accepted; there are 9E, AA, AS, B6, DL, EV, F9, FL, HA, MQ, UA, US, VX, WN\n"
        )

    def test_on_a_terminal_too(self) -> None:
        """A terminal shows the same line."""
        text = run_on_terminal("demo", "--carrier", "UA")

        assert re.search(r"UA United +164 +\+6\.3 min", text)
        assert "ExpressJet" not in text


class TestTrouble:
    @pytest.mark.parametrize(
        ("content", "text"),
        [
            pytest.param(None, "no such file", id="missing"),
            pytest.param(b"", "is empty", id="empty"),
            pytest.param(b"a,b\n1,2\n", "no column dep_time", id="missing column"),
            pytest.param(b"\x89PNG\r\n\x1a\n", "not a CSV file", id="not a CSV"),
            pytest.param(DAY + b"2013,1\n", ":844: 2 fields where the header has 19", id="broken row"),
            pytest.param(gzip.compress(DAY)[:9000], "broken gzip data", id="cut gzip"),
        ],
    )
    def test_bad_input_is_one_line_that_names_it(self, tmp_path: Path, content: bytes | None, text: str) -> None:
        """
        The line names the input, what was found and what to do; the exit code is 2, without a traceback or partial figures.
        """
        path = tmp_path / "input.csv"
        if content is not None:
            path.write_bytes(content)

        done = run("demo", "--json", "--input", str(path))

        assert done.returncode == 2
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"pipebus demo: {path}")
        assert text in line

    def test_a_folder_is_no_file(self, tmp_path: Path) -> None:
        """The error repeats the system's own words."""
        done = run("demo", "--input", str(tmp_path))

        assert done.returncode == 2
        assert done.stderr.startswith(f"pipebus demo: {tmp_path}: cannot be read (Is a directory)")

    @pytest.mark.parametrize("args", [["demo"], ["demo", "--json"], ["demo", "--help"]], ids=" ".join)
    def test_a_reader_that_went_away_is_no_traceback(self, args: list[str]) -> None:
        """`pipebus demo | head -0` ends as every other program would."""
        theirs, ours = os.pipe()
        os.close(theirs)
        done = subprocess.run(
            [*PIPEBUS, *args],
            check=False,
            env=ENV,
            stdout=ours,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
        )
        os.close(ours)

        assert done.returncode == 141
        assert done.stderr == ""

    @pytest.mark.parametrize("args", [["--json"], ["--carrier", "UA"]], ids=" ".join)
    def test_figures_with_a_dead_letter_behind_them_are_not_shown(self, args: list[str]) -> None:
        """A subscriber that fails makes the figures wrong, so the command says so instead."""
        code = (
            "import sys; from pipebus.demo import Delays; Delays.add = lambda self, message: 1 / 0; "
            "from pipebus.cli import main; sys.exit(main())"
        )
        done = run("demo", *args, program=[sys.executable, "-c", code])

        assert done.returncode == 1
        assert done.stdout == ""
        assert "831 deliveries died" in done.stderr
        assert "delays: ZeroDivisionError" in done.stderr

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-"])
    def test_a_stream_that_is_closed_from_the_start_is_no_traceback(self, closed: str) -> None:
        """Some services start their programs with closed streams."""
        shell = ["sh", "-c", f'"$0" -m pipebus demo --json {closed}', sys.executable]
        done = run(program=shell)

        assert done.returncode == 0
        assert done.stderr == ""

    def test_a_full_disk_is_no_traceback(self) -> None:
        """A failed write is reported in one line."""
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [*PIPEBUS, "demo"], check=False, env=ENV, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60
            )

        assert done.returncode == 1
        assert done.stderr == "pipebus: standard output: No space left on device\n"

    def test_ctrl_c_ends_it(self) -> None:
        """Ctrl-C also works while the demo waits for more input, and every record read so far has been published by then."""
        header, first, _ = DAY.split(b"\n", 2)
        with subprocess.Popen(
            [*PIPEBUS, "demo", "--log", "--input", "-"],
            env=ENV,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as process:
            assert process.stdin
            assert process.stdout
            assert process.stderr
            process.stdin.write(header + b"\n" + first + b"\n")
            process.stdin.flush()
            seen = process.stderr.readline()  # the first record's log line: it is running now
            process.send_signal(signal.SIGINT)
            rest = process.stderr.read()
            out = process.stdout.read()

        assert process.returncode == 130
        assert b"flights" in seen
        assert rest.endswith(b"pipebus: interrupted\n")
        assert b"Traceback" not in rest
        assert out == b""


class TestCommandLine:
    def test_help_of_the_command_has_an_example(self) -> None:
        """A newcomer finds an example to copy."""
        done = run("demo", "--help")

        assert done.returncode == 0
        assert "pipebus demo --json | jq" in done.stdout

    def test_help_lists_the_commands(self) -> None:
        """Each command has a line."""
        done = run("--help")

        assert done.returncode == 0
        assert "demo" in done.stdout

    def test_version(self) -> None:
        """A bug report begins with the version."""
        done = run("--version")

        assert done.returncode == 0
        assert done.stdout.startswith("pipebus ")

    @pytest.mark.parametrize("args", [[], ["dmo"], ["demo", "--jsn"]], ids=["nothing", "no command", "no option"])
    def test_wrong_arguments_are_exit_code_2(self, args: list[str]) -> None:
        """The usage is printed on stderr."""
        done = run(*args)

        assert done.returncode == 2
        assert done.stderr.startswith("usage: pipebus")

    def test_help_imports_nothing_heavy(self) -> None:
        """`pipebus --help` is fast because a command's own imports wait until it runs."""
        code = "import sys; from pipebus.cli import build_parser; build_parser().format_help(); print(*sys.modules)"
        loaded = run(program=[sys.executable, "-c", code]).stdout.split()

        assert not {"rich", "structlog", "pydantic", "pipebus.demo"} & set(loaded)
