"""Publishing the records of files, and counting what cannot be read or published."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pipebus.bus.bus import Bus, engine_of
from pipebus.cli.interrupts import Interrupted, Interrupts
from pipebus.cli.letters import Journal
from pipebus.cli.messages import Unrouted, message_of
from pipebus.cli.summary import Sample
from pipebus.errors import HeaderError, MessageError, PipebusError, Rejected, SubjectError, reason_of
from pipebus.inputs.records import BadRecord
from pipebus.mailbox.patience import patience
from pipebus.message.message import Message
from pipebus.message.outcomes import Receipt
from pipebus.outcomes.outcome_json import error_json, outcome_json

if TYPE_CHECKING:
    from pipebus.inputs.several import Several

AGAIN: Final = 0.5
"""Seconds between two attempts to use a disk that is full."""


class Feed:
    """
    Publishes records one after the other, until their end or a signal.

    Nobody waits for a file that is read, so where a mailbox or a disk is full, it waits for room, for as long as that takes.

    Args:
        subject: Where each record goes, as the body of a message; None: each record is a message.
        lasts: The bus keeps messages in a file. If that fails, as on a full disk, the message can be sent again.
        tell: Called with what became of each record, in JSON; None: nobody reads it.
        says: Called with a sentence when it begins to wait for a disk.
    """

    def __init__(
        self, bus: Bus, interrupts: Interrupts, subject: str | None, *, lasts: bool,
        tell: Callable[[dict[str, Any]], object] | None, says: Callable[[str], object],
    ) -> None:  # fmt: skip
        self.read = 0
        self.unreadable = Sample()
        self.unpublished = Sample()
        self.waits = ""  # why it waits for a disk now
        self.journal: Journal | None = None  # writes dead letters
        self._bus = bus
        self._interrupts = interrupts
        self._subject = subject
        self._lasts = lasts
        self._tell = tell
        self._says = says
        self._unrouted = None if tell is None else Unrouted(bus)
        self.duplicates = 0
        self._no_messages = 0
        self._where: Callable[[], str] = str

    @property
    def published(self) -> int:
        return self.read - len(self.unreadable) - self._no_messages

    def run(self, records: Several) -> None:
        """
        Raises:
            BadInput: a file cannot be read any further.
        """
        self._where = lambda: records.where
        token = patience.set(self._goes_on)
        try:
            if self._interrupts.asked:
                return
            for record in records:
                self.read += 1
                self._publish(record)
                if self._interrupts.asked or not self.finish():
                    return
        except Interrupted:
            return
        finally:
            patience.reset(token)

    def _publish(self, record: Any) -> None:
        subject = self._subject
        try:
            if record.__class__ is BadRecord:
                raise record
            if subject is not None:
                outcome = self._bus.publish(subject, record)
            else:
                outcome = self._send(*message_of(record))
        except BadRecord as bad:
            text = str(bad) if bad is record else f"{self._where()}: {bad}"
            self.unreadable.add(text)
            self._told({"outcome": "unreadable", "reason": text})
        except (Exception, SystemExit) as error:  # of a filter, or of wrong options; go on with the next record
            if isinstance(error, SystemExit):
                engine_of(self._bus).interrupted(error, "a publish filter", f"record {self._where()}", lost=True)
            elif not isinstance(error, Rejected):
                wrong = isinstance(error, (SubjectError, HeaderError, MessageError))
                self._no_messages += wrong and not _is_message(record, subject)
                self.unpublished.add(f"{self._where()}: {reason_of(error)}")
            self._told(error_json(error))
        else:
            self.duplicates += isinstance(outcome, Receipt) and outcome.duplicate
            if self._unrouted is not None:
                self._told(outcome_json(outcome, self._unrouted.take()))

    def _send(self, subject: str, body: Any, options: dict[str, Any]) -> Any:
        if "time" in options:
            return self._bus.send(Message(subject, body, **options))
        return self._bus.publish(subject, body, **options)

    def _told(self, outcome: dict[str, Any]) -> None:
        if self._tell is not None:
            self._tell({"record": self.read} | outcome)

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _goes_on(self, error: Exception | None) -> bool:
        """Whether to try on: where there is no room in a mailbox (None), or where a store fails for the time being."""
        if error is None or self._interrupts.asked:
            return not self._interrupts.asked
        if not self._lasts:
            return False
        if not self.waits:
            self._says(f"waits: {reason_of(error)}")
        return self._pause(reason_of(error))

    def finish(self) -> bool:
        """Wait while dead letters cannot be written. False: a signal came meanwhile."""
        journal = self.journal
        while journal is not None and journal.error is not None and not journal.write():
            if not self._pause(str(journal.error)):
                return False
        self.waits = ""
        return True

    def _pause(self, why: str) -> bool:
        self.waits = why
        return self._interrupts.pause(AGAIN)


def _is_message(record: Any, subject: str | None) -> bool:
    """Whether a record was a message; otherwise a filter has made something else of it."""
    if subject is not None:
        return True
    subject, body, options = message_of(record)
    options.pop("delay", None)
    try:
        Message(subject, body, **options)
    except PipebusError:
        return False
    return True
