"""The commands about the rules of a log and its alarms, with their arguments and their help.

As `headrace.cli.commands`, which has the others.
"""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import App, Parameter

from headrace.cli.arguments import LogFolder, Output
from headrace.cli.commands import _command
from headrace.cli.replaying import app
from headrace.cli.writing import Reason

__all__ = ["app"]

rules_app: Final = App(name="rules", help="Look at the rules of a log; pause and reload them.")
alarms_app: Final = App(name="alarms", help="Look at the alarms of a log, and acknowledge them.")
app.command(rules_app)
app.command(alarms_app)

RuleName = Annotated[str, Parameter(name="RULE", help="The rule's name, from `rules list`.")]
AlarmKey = Annotated[
    str | None,
    Parameter(
        allow_leading_hyphen=True,
        help="The alarm's key as JSON, from `alarms list`; without: that of a rule without keys.",
    ),
]
By = Annotated[str | None, Parameter(help="Who knows of it; without: your login name.")]
Note = Annotated[str, Parameter(help="Whatever is to be said of it.")]


@_command(rules_app, "list")
def rules_list_command(folder: LogFolder, /, *, output: Output = "table") -> int:
    """Print the rules that are in force, and what became of each.

    A rule that is `changed` was put into force while the engine ran: at its next start those
    of the app are.
    """
    from headrace.cli.rules import list_rules

    return list_rules(folder, output)


@_command(rules_app, "pause")
def rules_pause_command(
    folder: LogFolder, rule: RuleName, /, *, reason: Reason = "", output: Output = "table"
) -> int:
    """Let a rule start no runs until it is resumed, and print the record's sequence.

    It goes on looking at events. Without a running engine the next start acts on it.
    """
    from headrace.cli.rules import pause

    return pause(folder, rule, output, reason=reason, paused=True)


@_command(rules_app, "resume")
def rules_resume_command(
    folder: LogFolder, rule: RuleName, /, *, reason: Reason = "", output: Output = "table"
) -> int:
    """Let a rule that is paused start runs again, and print the record's sequence.

    What it would have started meanwhile is not made up for.
    """
    from headrace.cli.rules import pause

    return pause(folder, rule, output, reason=reason, paused=False)


@_command(rules_app, "reload")
def rules_reload_command(folder: LogFolder, /, *, output: Output = "table") -> int:
    """Have the engine that runs over a log read its rules file again; print what has changed.

    Exit code 2 if something is wrong in the file: then all its rules stay as they are. Without
    a running engine there is nothing to do: the next start reads it.
    """
    from headrace.cli.rules_reload import reload

    return reload(folder, output)


@_command(alarms_app, "list")
def alarms_list_command(folder: LogFolder, /, *, output: Output = "table") -> int:
    """Print the alarms that stand: of rules that also say when what they told of has ended."""
    from headrace.cli.rules import list_alarms

    return list_alarms(folder, output)


@_command(alarms_app, "ack")
def alarms_ack_command(
    folder: LogFolder,
    rule: RuleName,
    /,
    *,
    key: AlarmKey = None,
    by: By = None,
    note: Note = "",
    output: Output = "table",
) -> int:
    """Say that somebody knows of an alarm that stands, and print the record's sequence.

    Without a running engine it is written into the log, and the next start finds it there.
    """
    from headrace.cli.rules import acknowledge

    return acknowledge(folder, rule, output, key=key, by=by, note=note)
