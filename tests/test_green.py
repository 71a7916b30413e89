"""Green threads: a program that gevent or eventlet has patched gets one sentence instead of a bus that stands still."""

from __future__ import annotations

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from missing import needs
from pipebus import Bus, LifecycleError
from values_helpers import environment

REMEDY = "use the bus in a process that is not patched (gunicorn: --worker-class gthread)"


def patched(monkeypatch: pytest.MonkeyPatch, library: str, *parts: str) -> None:
    """As if the library had been imported, and had patched these parts."""
    module, function = {
        "gevent": ("gevent.monkey", "is_module_patched"),
        "eventlet": ("eventlet.patcher", "is_monkey_patched"),
    }[library]
    monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{function: lambda part: part in parts}))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("library", "parts"),
    [
        pytest.param("gevent", ("threading", "queue"), id="gevent"),
        pytest.param("gevent", ("queue",), id="gevent without threads"),
        pytest.param("eventlet", ("thread", "socket"), id="eventlet"),
    ],
)
def test_a_bus_of_green_threads_is_refused(library: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says who has patched what, why that matters, and what to do."""
    patched(monkeypatch, library, *parts)
    with pytest.raises(LifecycleError) as caught:
        Bus()
    assert str(caught.value) == (
        f"{library} has monkey-patched {', '.join(parts)} in this process, and a bus needs real threads, because on green ones "
        f"its workers and event loops would stop each other; {REMEDY}"
    )


def test_a_program_that_is_patched_later_is_refused_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bus at the top of a module may be made before the server patches the process."""
    bus = Bus()
    patched(monkeypatch, "gevent", "threading")
    with pytest.raises(LifecycleError, match="gevent has monkey-patched threading"):
        bus.start()
    assert bus.state == "new"


def test_a_library_that_is_only_imported_does_no_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    patched(monkeypatch, "gevent")
    patched(monkeypatch, "eventlet", "psycopg")
    with Bus() as bus:
        assert bus.state == "started"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("call", "found"),
    [
        pytest.param("patch_all()", "threading, _thread, queue, select", id="all"),
        pytest.param("patch_all(thread=False, select=False)", "queue, socket", id="without threads, as grequests does"),
    ],
)
def test_the_real_gevent_is_recognised(call: str, found: str) -> None:
    needs("gevent")
    program = f"from gevent import monkey; monkey.{call}; from pipebus import Bus; Bus()"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 1
    assert re.search(f"LifecycleError: gevent has monkey-patched {found}.*{re.escape(REMEDY)}$", done.stderr.rstrip())


@pytest.mark.thorough
def test_a_program_that_uses_gevent_unpatched_has_a_bus() -> None:
    needs("gevent")
    program = "import gevent, gevent.monkey\nfrom pipebus import Bus\nwith Bus() as bus: print(bus.state)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment())
    assert (done.stdout, done.returncode) == ("started\n", 0)
