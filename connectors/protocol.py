"""`Source` and `Sink`: what a connector is, what it promises, and the errors that it may raise.

One rule governs all.  A source tells its server that it has taken a message only after
`Intake.put` has returned, which is when the event is durable in the log; where the protocol
gives messages an identity it hands that on, so that what is delivered again is not stored again.
A sink is driven by runs, which are durable: what it is to send is attempted until it succeeds, or
is a dead letter, and each attempt has the same idempotency key.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from headrace.connectors.intake import Intake
from headrace.connectors.promises import Promise
from headrace.engine.errors import HeadraceError

M = TypeVar("M")
R_co = TypeVar("R_co", covariant=True)


class Source(Protocol):
    """What brings events in.

    `run` is called once for each engine that is opened; a source keeps nothing from one call to
    the next but its settings.  It connects, hands messages to the intake, and acknowledges them
    behind it.  While its server is gone it tries again for ever (see `Backoff`); it raises only
    what trying again cannot mend.
    """

    @property
    def name(self) -> str:
        """What the log knows it by: letters, digits, ``_`` and ``-``; unique within an app.

        Its cursor is stored under it, so it stays the same when the app is changed.
        """
        ...

    @property
    def promise(self) -> Promise:
        """How often a message that the server has acknowledged is in the log."""
        ...

    async def run(self, intake: Intake) -> None:
        """Bring events in until there are no more, or until cancelled.

        Raises:
            ConnectorError: it cannot work as it is set up; says what to mend.
        If cancelled, what is in the log is acknowledged or will be delivered again, and what is
        not in the log was not acknowledged.
        """
        ...


class Sink(Protocol[M, R_co]):
    """What takes messages out: a resource of the app, opened and closed with the engine.

    Opening it need not connect: a server that is gone then is one that is gone later.
    """

    @property
    def name(self) -> str:
        """What the log knows it by: the name of the task that sends."""
        ...

    @property
    def message_type(self) -> Any:
        """The type of its messages, which msgspec can store: what `send` takes."""
        ...

    @property
    def result_type(self) -> Any:
        """The type of what `send` returns, which msgspec can store; ``None`` for nothing."""
        ...

    def message_of(self, subject: str, data: Any) -> M:
        """Return the message that forwards an event.

        Raises:
            ValueError: there is none.
        """
        ...

    async def __aenter__(self) -> Self:
        """Get ready to send."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        """Let go of the connection, if there is one."""
        ...

    async def send(self, message: M, *, key: str) -> R_co:
        """Send *message*; return once the server has taken it.

        *key* is the same for each attempt to send this message, and no other message has it.

        Raises:
            SinkRefused: the server does not take it, and will not if it is asked again.
            SinkUnavailable: it did not work this time.
        """
        ...


class ConnectorError(HeadraceError):
    """A connector cannot work as it is set up: trying again would not help."""


class ExtraMissing(ConnectorError):
    """The library that a connector is made with is not installed."""

    def __init__(self, what: str, extra: str, missing: str | None) -> None:
        """Say that *what* needs the *extra* of headrace, since *missing* is not there."""
        super().__init__(
            f"{what}: expected the extra {extra!r} to be installed, found no module {missing!r}; "
            f"pip install 'headrace[{extra}]'"
        )


class SinkUnavailable(HeadraceError):
    """A message was not sent this time; trying again may help."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        """Say what was found; *retry_after_s* is when the server wants to be asked again."""
        super().__init__(message)
        self.retry_after_s = retry_after_s


class SinkRefused(HeadraceError):
    """A message cannot be sent: its run becomes a dead letter at once."""
