"""Lost work is seen: without any configuration a failure reaches standard error, with the user's own lines."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest


def run(tmp_path: Path, program: str) -> subprocess.CompletedProcess[str]:
    """Run a newcomer's first program in a process of its own."""
    file = tmp_path / "first.py"
    file.write_text(textwrap.dedent(program))
    return subprocess.run(
        [sys.executable, str(file)], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL
    )


FAILING = """
    from pipebus import Bus
    bus = Bus()

    {options}
    def greet(message):
        print("hello", nobody)

    with bus:
        for _ in range({times}):
            bus.publish("greetings")
"""


@pytest.mark.parametrize("options", ['@bus.on("greetings")', '@bus.on("greetings", run="thread")'], ids=["pool", "thread"])
@pytest.mark.few(1)
def test_a_handlers_error_reaches_standard_error_with_its_line(tmp_path: Path, options: str) -> None:
    """A `NameError` in a first program is printed with file, line and function, and without the frames of the library."""
    done = run(tmp_path, FAILING.format(options=options, times=1))
    assert "NameError: name 'nobody' is not defined" in done.stderr
    assert 'first.py", line 7, in greet' in done.stderr
    assert "greetings" in done.stderr
    assert "src/pipebus" not in done.stderr
    assert not done.stdout


@pytest.mark.thorough
def test_a_coroutines_error_reaches_standard_error(tmp_path: Path) -> None:
    done = run(tmp_path, FAILING.format(options='@bus.on("greetings")', times=1).replace("def greet", "async def greet"))
    assert "NameError: name 'nobody' is not defined" in done.stderr
    assert "in greet" in done.stderr


@pytest.mark.thorough
def test_one_kind_of_failure_is_printed_once_and_counted_after_that(tmp_path: Path) -> None:
    """A thousand failures of one kind are one traceback and a few lines with their number, not a thousand tracebacks."""
    done = run(tmp_path, FAILING.format(options='@bus.on("greetings")', times=250))
    assert done.stderr.count("Traceback") == 1
    assert "times=10\n" in done.stderr
    assert "times=250" in done.stderr
    assert len(done.stderr.splitlines()) < 20


@pytest.mark.thorough
def test_a_failure_of_a_publish_chain_names_no_subscription(tmp_path: Path) -> None:
    """Nor does the line at the stop that says how often it came."""
    done = run(
        tmp_path,
        """
        from pipebus import Bus, Pipeline
        from pipebus.filters import Validate
        bus = Bus()
        bus.use(Pipeline(Validate({"a": int}), on_error="dead_letter"))
        with bus:
            for _ in range(2):
                bus.publish("a", "x")
        """,
    )
    assert "times=2" in done.stderr
    assert "subscription=" not in done.stderr


@pytest.mark.thorough
def test_failures_of_two_kinds_are_both_printed(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        from pipebus import Bus
        bus = Bus()

        @bus.on("a")
        def one(message):
            raise KeyError(message.body)

        @bus.on("a")
        def two(message):
            raise ValueError(message.body)

        with bus:
            bus.publish("a", 1)
            bus.publish("a", 2)
        """,
    )
    assert done.stderr.count("Traceback") == 2
    assert "KeyError: 1" in done.stderr
    assert "ValueError: 1" in done.stderr


@pytest.mark.thorough
def test_what_dies_in_a_publish_chain_is_printed_too(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        from pipebus import Bus, Pipeline, transform
        bus = Bus()

        @transform
        def enrich(message):
            return message.with_body(message.body["missing"])

        bus.use(Pipeline(enrich, on_error="dead_letter"))
        with bus:
            bus.publish("a", {})
        """,
    )
    assert "KeyError: 'missing'" in done.stderr
    assert "in enrich" in done.stderr


@pytest.mark.parametrize(
    "who",
    [
        "bus.observe(fail)",
        'bus.subscribe("a", fail, to="b")',
    ],
    ids=["an observer", "a handler with to="],
)
@pytest.mark.thorough
def test_whoever_else_fails_is_printed(tmp_path: Path, who: str) -> None:
    done = run(
        tmp_path,
        f"""
        from pipebus import Bus
        bus = Bus()

        def fail(thing):
            raise RuntimeError("seen")

        {who}
        with bus:
            bus.publish("a")
        """,
    )
    assert "RuntimeError: seen" in done.stderr
    assert done.stderr.count("Traceback") == 1
    assert "in fail" in done.stderr


@pytest.mark.parametrize(
    ("silence", "seen"),
    [
        ("logging.getLogger('pipebus').addHandler(logging.NullHandler())", False),
        ("logging.getLogger('pipebus').setLevel(logging.CRITICAL)", False),
        ("logging.disable()", False),
        ("logging.basicConfig(format='%(levelname)s|%(message)s')", True),
        ("structlog.configure(processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent)])", False),
    ],
    ids=["a null handler", "a level", "disabled", "basicConfig", "structlog"],
)
@pytest.mark.few(1)
def test_a_program_that_configures_logging_has_its_way(tmp_path: Path, silence: str, seen: bool) -> None:
    """The lines go where the program configures, with the traceback, or nowhere."""
    program = FAILING.format(options='@bus.on("greetings")', times=1).replace("bus = Bus()", f"{silence}\n    bus = Bus()", 1)
    done = run(tmp_path, "    import logging, structlog\n" + program)
    assert ("NameError: name 'nobody' is not defined" in done.stderr) is seen
    assert ("in greet" in done.stderr) is seen
    assert not done.stdout


@pytest.mark.thorough
def test_a_log_filter_is_visible_and_the_library_itself_is_quiet(tmp_path: Path) -> None:
    """The program uses `Log()`, so each message has its line; nothing else is printed."""
    done = run(
        tmp_path,
        """
        from pipebus import Bus
        from pipebus.filters import Log
        bus = Bus()
        bus.use(Log())
        bus.subscribe("a", lambda message: None)
        with bus:
            bus.publish("a")
            bus.publish("b")
        """,
    )
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all("message.passed" in line for line in lines)
    assert "subject=a" in lines[0]


def test_nobody_reading_standard_error_loses_no_message(tmp_path: Path) -> None:
    """A `Log` filter over a closed standard error refuses nothing."""
    done = run(
        tmp_path,
        """
        import sys
        from pipebus import Bus
        from pipebus.filters import Log
        bus = Bus()
        bus.use(Log())
        bus.subscribe("a", lambda message: 1 / 0)
        sys.stderr.close()
        with bus:
            bus.publish("a")
            bus.drain()
            print(bus.stats()["accepted"], len(bus.dead_letters))
        """,
    )
    assert done.stdout.split() == ["1", "1"]
