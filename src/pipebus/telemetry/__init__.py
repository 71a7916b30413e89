"""What a running bus does, for those who watch it: traces, metrics and figures. It imports the bus, which never imports it."""

from __future__ import annotations

from pipebus.telemetry.instrumenting import instrument

__all__ = ["instrument"]
