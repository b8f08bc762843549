"""Topics and topic filters of MQTT: what is valid, what matches, and topics as subjects and back.

By the MQTT 5 standard, section 4.7 (and 4.8.2 for shared subscriptions):
https://docs.oasis-open.org/mqtt/mqtt/v5.0/os/mqtt-v5.0-os.html#_Toc3901241
"""

from __future__ import annotations

from typing import Final

from headrace.connectors.tokens import text_of, token_of

BYTES_MAX: Final = 65_535
"""Of the UTF-8 of a topic or a filter: its length is written in two bytes."""
SHARED: Final = "$share/"
PREFIX: Final = "mqtt"


def topic_to_subject(topic: str, prefix: str = PREFIX) -> str:
    """Return the subject of *topic*: ``plant/t1`` becomes ``mqtt.plant.t1``.

    No other topic becomes it.  What a level holds that a token cannot (``.``, ``*``, ``>``,
    spaces, nothing at all) is written as `token_of` does; an empty *prefix* is left out.

    Raises:
        ValueError: *topic* is none.
    """
    check_topic(topic)
    subject = ".".join(token_of(level) for level in topic.split("/"))
    return f"{prefix}.{subject}" if prefix else subject


def subject_to_topic(subject: str, prefix: str = PREFIX) -> str:
    """Return the topic that became *subject*.

    Raises:
        ValueError: none does: it does not begin with *prefix*, or has a token that no level of a
            topic becomes.
    """
    rest = subject
    if prefix:
        first, rest = subject[: len(prefix) + 1], subject[len(prefix) + 1 :]
        if first != f"{prefix}.":
            raise ValueError(
                f"subject {subject!r}: expected one that begins with '{prefix}.', found another; "
                f"give the prefix that it has"
            )
    try:
        topic = "/".join(text_of(token) for token in rest.split("."))
        if topic_to_subject(topic, prefix) == subject:
            return topic
    except ValueError as error:
        raise ValueError(f"subject {subject!r}: expected that of a topic, found {error}") from None
    raise ValueError(
        f"subject {subject!r}: expected that of a topic, found '/' or an empty token; levels of a "
        f"topic are tokens"
    )


def filter_matches(filter: str, topic: str) -> bool:
    """Say whether a subscription to *filter* gets what is published on *topic*.

    Of a shared subscription the filter behind the name of its group counts.  Total: what is no
    filter matches nothing, and what is no topic is matched by nothing.
    """
    if _filter_fault(filter) or _topic_fault(topic):
        return False
    if filter.startswith(SHARED):
        filter = filter.split("/", 2)[2]
    wanted, found = filter.split("/"), topic.split("/")
    # What a server says about itself is not what "everything" means (4.7.2).
    if topic.startswith("$") and wanted[0] in ("+", "#"):
        return False
    if wanted[-1] == "#":
        wanted.pop()
        # The level above belongs to it: sport/tennis/# also matches sport/tennis.
        if len(found) < len(wanted):
            return False
    elif len(found) != len(wanted):
        return False
    return all(want in ("+", level) for want, level in zip(wanted, found, strict=False))


def check_filter(filter: str) -> None:
    """Raise `ValueError`, with the place and the reason, if *filter* is no topic filter."""
    _check_text("topic filter", filter)
    fault = _filter_fault(filter)
    if fault:
        raise ValueError(f"topic filter {_short(filter)}{fault}")


def check_topic(topic: str) -> None:
    """Raise `ValueError`, with the place and the reason, if nothing can have *topic*."""
    _check_text("topic", topic)
    fault = _topic_fault(topic)
    if fault:
        raise ValueError(f"topic {_short(topic)}{fault}")


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what}: expected text, found {text!r:.80}")


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:40]!r}…"


def _topic_fault(topic: str) -> str | None:
    """Return the fault of *topic*, as the end of a sentence that begins with it."""
    fault = _text_fault(topic)
    if fault:
        return fault
    for at, character in enumerate(topic, 1):
        if character in "+#":
            return (
                f", character {at}: found the wildcard {character!r}; only a topic filter, which "
                f"is subscribed to, has wildcards"
            )
    return None


def _filter_fault(filter: str) -> str | None:
    fault = _text_fault(filter)
    if fault:
        return fault
    levels = filter.split("/")
    at = 1
    if filter.startswith(SHARED):
        group = levels[1]
        at += len(SHARED)
        if not group or "+" in group or "#" in group:
            return f", character {at}: expected the name of a group, found {group!r}"
        if len(levels) == 2 or levels[2:] == [""]:
            return f": expected a topic filter behind '{SHARED}{group}/', found the end"
        at += len(group) + 1
        levels = levels[2:]
    for index, level in enumerate(levels):
        for wildcard in "+#":
            if wildcard in level and level != wildcard:
                return (
                    f", character {at + level.index(wildcard)}: found {wildcard!r} beside other "
                    f"characters; it stands for whole levels, as in 'a/{wildcard}'"
                )
        if level == "#" and index < len(levels) - 1:
            return f", character {at}: found '#' before the end; it can only be the last level"
        at += len(level) + 1
    return None


def _text_fault(text: str) -> str | None:
    if not text:
        return ": expected at least one character, found none"
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return f", character {error.start + 1}: found half a character, which UTF-8 cannot hold"
    if size > BYTES_MAX:
        return f": expected at most {BYTES_MAX} bytes of UTF-8, found {size}"
    if "\0" in text:
        return f", character {text.index(chr(0)) + 1}: found U+0000, which MQTT does not allow"
    return None
