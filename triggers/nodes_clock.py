"""The nodes of what only the clock drives: `app.every`, `app.cron` and `app.at`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

from headrace.triggers.nodes import Node, said, seconds

CatchUp = Literal["all", "last", "none"]


class EveryNode(Node, frozen=True):
    """The clock, in equal steps."""

    period_ns: int
    catch_up: CatchUp = "last"

    def text(self) -> str:
        """See `Node`."""
        return f"every({seconds(self.period_ns)}{said(catch_up=(self.catch_up, 'last'))})"

    def parts(self) -> list[object]:
        """See `Node`."""
        # What is not said is not there: rules of before are to stay what they were.
        catch_up = [] if self.catch_up == "last" else [self.catch_up]
        return ["every", self.period_ns, *catch_up]


class CronNode(Node, frozen=True):
    """The clock, by a cron expression in a time zone."""

    expression: str
    tz: str
    catch_up: CatchUp

    def text(self) -> str:
        """See `Node`."""
        more = said(catch_up=(self.catch_up, "last"))
        return f"cron({self.expression!r}, tz={self.tz!r}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return ["cron", self.expression, self.tz, self.catch_up]


class AtNode(Node, frozen=True):
    """The clock, once."""

    at_ns: int
    catch_up: CatchUp

    def text(self) -> str:
        """See `Node`."""
        at = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self.at_ns // 1000)
        more = said(catch_up=(self.catch_up, "last"))
        return f"at({at.isoformat().replace('+00:00', 'Z')!r}{more})"

    def parts(self) -> list[object]:
        """See `Node`."""
        return ["at", self.at_ns, self.catch_up]


ScheduleNode = EveryNode | CronNode | AtNode
