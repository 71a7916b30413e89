"""The `[[tests]]` of a config file, run on the real bus in virtual time: by `pipebus test`, by pytest, or by you."""

import copy
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from pipebus.bus.bus import Bus
from pipebus.config.beside import beside
from pipebus.config.files import read
from pipebus.config.reading.cases import Case, Replace
from pipebus.config.wording import one_line
from pipebus.errors import ConfigError, DrainTimeout
from pipebus.foreign.objects import text_of
from pipebus.testing.files.differences import differences_of
from pipebus.testing.files.found import Found, Given, published
from pipebus.testing.files.stand_ins import filter_of, handler
from pipebus.testing.harness.harness import Harness

PATIENCE: Final = 86_400.0
"""Virtual seconds within which everything must be settled."""


@dataclass
class Result:
    """
    The result of a test.

    Args:
        differences: Each difference between what was expected and what happened, with the line of the expectation. If there is
            none, the test has passed.
        story: Everything that happened, one line for each moment.
    """

    name: str
    file: str
    line: int
    differences: list[str] = field(default_factory=list)
    story: str = ""

    @property
    def passed(self) -> bool:
        return not self.differences

    def __str__(self) -> str:
        lines = [f"{self.file}:{self.line}: {self.name}: {'passed' if self.passed else 'failed'}"]
        return "\n".join(lines + [f"  {one}" for one in self.differences])


class FileTest:
    """One test of a file, made by `file_tests`."""

    def __init__(self, case: Case, load: Callable[..., tuple[Bus, list[Case]]], store: Literal["memory", "temporary"]) -> None:
        self.case = case
        self._load = load
        self._store = store

    @property
    def name(self) -> str:
        """As the file gives it."""
        return self.case.test.name

    def run(self) -> Result:
        """
        Load the file again, with the test's replacements, and run the test.

        Raises:
            ConfigError: The file cannot be loaded, or cannot be loaded with the replacements.
        """
        case = self.case
        try:
            return self._run()
        except ConfigError:
            raise
        except Exception as error:  # a filter that cannot start, a schedule that never ends
            return Result(case.test.name, case.file, case.line, [one_line(f"{case.file}:{case.line}: {text_of(error)}")])

    def _run(self) -> Result:
        case = self.case
        with beside(case.file), Harness(fail_fast=False, told=False, store=self._store) as harness:
            bus, cases = self._load(
                replace=Replace(
                    {name: functools.partial(handler, name, one) for name, one in case.test.replace.handlers.items()},
                    {name: filter_of(name, one) for name, one in case.test.replace.filters.items()},
                )
            )
            given = Given(harness.tape)
            bus.observe(given.see)
            harness.start(bus)
            outcomes = []
            for publish in copy.deepcopy([one.values() for one in case.test.publish]):  # a handler may change a body
                after = publish.pop("after")
                if after:
                    harness.advance(after)
                outcomes.append(published(harness, bus, publish.pop("subject"), publish.pop("json"), publish))
            try:
                harness.drain(PATIENCE + case.test.advance)
                if case.test.advance:
                    harness.advance(case.test.advance)
                    harness.drain(PATIENCE)
                unsettled = []
            except DrainTimeout as error:
                unsettled = [f"{case.file}:{case.line}: {error}"]
            differences = [*differences_of(case, Found(outcomes, harness, bus, given)), *unsettled]
            redacted = cases[0].redacted
            lines = [one_line(redacted(one)) for one in differences]
            result = Result(case.test.name, case.file, case.line, lines, redacted(harness.story))
            harness.forget()
        return result

    def check(self) -> None:
        """
        Run the test.

        Raises:
            AssertionError: With every difference.
        """
        result = self.run()
        if not result.passed:
            raise AssertionError(str(result))

    def __repr__(self) -> str:
        return f"<FileTest {self.case.file}:{self.case.line} {self.name!r}>"


def file_tests(
    path: str | os.PathLike[str],
    *,
    allow_imports: Sequence[str] = (),
    handlers: Mapping[str, Callable[..., Any]] | None = None,
    filters: Mapping[str, Any] | None = None,
    store: Literal["memory", "temporary"] = "memory",
) -> list[FileTest]:
    """
    The tests of a file.

    Args:
        path, allow_imports, handlers, filters: As for `Bus.from_config`.
        store: What keeps messages in place of the file's own transport, which its tests never touch; as for `Harness`.

    Raises:
        ConfigError: Everything that is wrong with the file.
    """

    def load(replace: Replace | None = None) -> tuple[Bus, list[Case]]:
        return read(path, allow_imports=allow_imports, handlers=handlers, filters=filters, replace=replace, tests=True)

    with beside(path):
        return [FileTest(case, load, store) for case in load()[1]]


__all__ = ["FileTest", "Result", "file_tests"]
