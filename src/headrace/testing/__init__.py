"""What users need to test their rules and apps; see docs/testing.md.

`firings` and `assert_fires` say what a pattern makes of a `Timeline`, with no engine, no log
and no event loop.  `virtual_time` lets a whole app live through a day at once, and
`VirtualClock` through as much as a test says.  `replay_log` makes a log a regression test.
The others are doubles that go wrong.

pytest finds the fixtures `engine`, `timeline` and `virtual_time` by itself.
"""

from headrace.engine.clock import VirtualClock
from headrace.testing.asserting import assert_fires
from headrace.testing.entering import virtual_time
from headrace.testing.failing import TaskDouble, failing_task
from headrace.testing.logs import FailingLog, FullLog, SlowLog
from headrace.testing.replayed import LogReplayed, replay_log
from headrace.testing.timeline import Moment, Timeline
from headrace.testing.trial import RuleWarning, firings
from headrace.testing.virtual import VirtualTime

__all__ = [
    "FailingLog",
    "FullLog",
    "LogReplayed",
    "Moment",
    "RuleWarning",
    "SlowLog",
    "TaskDouble",
    "Timeline",
    "VirtualClock",
    "VirtualTime",
    "assert_fires",
    "failing_task",
    "firings",
    "replay_log",
    "virtual_time",
]
