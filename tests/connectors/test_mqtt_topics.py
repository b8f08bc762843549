"""Topics and filters of MQTT, by the standard and its own examples."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.connectors.mqtt_topics import (
    check_filter,
    check_topic,
    filter_matches,
    subject_to_topic,
    topic_to_subject,
)
from headrace.engine.subject import check_subject

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1)
awkward = st.text("/.*> %$a\t\u00e4", min_size=1, max_size=12)
topics = st.one_of(texts, awkward)
prefixes = st.sampled_from(["mqtt", "a.b", ""])
filters = st.one_of(
    st.text("/+#a$", min_size=1, max_size=8),
    st.lists(st.sampled_from(["+", "a", "b", ""]), min_size=2, max_size=5).map("/".join),
    st.lists(st.sampled_from(["+", "a", "b", ""]), min_size=1, max_size=4).map(
        lambda levels: "/".join([*levels, "#"])
    ),
)


@given(topics, prefixes)
def test_each_topic_is_a_subject_and_comes_back(topic: str, prefix: str) -> None:
    """Without loss: dots, wildcards of subjects, spaces and empty levels included."""
    subject = topic_to_subject(topic, prefix)
    check_subject(subject)
    assert subject_to_topic(subject, prefix) == topic
    assert subject.count(".") == topic.count("/") + (prefix.count(".") + 1 if prefix else 0)


@given(st.one_of(st.text("ab./%2E*>+#", max_size=10), st.text()), prefixes)
def test_a_subject_that_has_a_topic_comes_back(subject: str, prefix: str) -> None:
    """So no two subjects are one topic; any other text is refused, in no other way."""
    try:
        topic = subject_to_topic(subject, prefix)
    except ValueError:
        return
    assert topic_to_subject(topic, prefix) == subject


@pytest.mark.parametrize(
    ("topic", "subject"),
    [
        ("plant/t1", "mqtt.plant.t1"),
        ("/finance", "mqtt.%.finance"),
        ("/", "mqtt.%.%"),
        ("a//b", "mqtt.a.%.b"),
        ("v1.2/*/>/a b", "mqtt.v1%2E2.%2A.%3E.a%20b"),
        ("100%", "mqtt.100%25"),
        ("$SYS/broker", "mqtt.$SYS.broker"),
    ],
)
def test_topics_as_subjects(topic: str, subject: str) -> None:
    """What a rule's pattern is written against."""
    assert topic_to_subject(topic) == subject
    assert subject_to_topic(subject) == topic


@pytest.mark.parametrize(
    "subject",
    ["plant.t1", "mqtt", "mqtt.", "mqttx.a", "mqtt.a/b", "mqtt.a..b", "mqtt.a.+", "mqtt.%41"],
)
def test_subject_of_no_topic_is_refused(subject: str) -> None:
    """Rather than published on a topic that comes back as another subject."""
    with pytest.raises(ValueError, match=re.escape(repr(subject))):
        subject_to_topic(subject)


@pytest.mark.parametrize(
    ("filter", "topic", "matches"),
    [
        # 4.7.1.2, multi-level wildcard
        ("sport/tennis/player1/#", "sport/tennis/player1", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
        ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
        ("sport/tennis/player1/#", "sport/tennis/player10", False),
        ("sport/#", "sport", True),
        ("#", "sport/tennis", True),
        ("#", "/", True),
        # 4.7.1.3, single-level wildcard
        ("sport/tennis/+", "sport/tennis/player1", True),
        ("sport/tennis/+", "sport/tennis/player2", True),
        ("sport/tennis/+", "sport/tennis/player1/ranking", False),
        ("sport/+", "sport", False),
        ("sport/+", "sport/", True),
        ("+", "sport", True),
        ("+/tennis/#", "sport/tennis", True),
        ("sport/+/player1", "sport/tennis/player1", True),
        ("+/+", "/finance", True),
        ("/+", "/finance", True),
        ("+", "/finance", False),
        # 4.7.2, topics beginning with $
        ("#", "$SYS/monitor", False),
        ("+/monitor/Clients", "$SYS/monitor/Clients", False),
        ("$SYS/#", "$SYS/monitor", True),
        ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
        # 4.7.3, semantics
        ("ACCOUNTS", "Accounts", False),
        ("Accounts payable", "Accounts payable", True),
        ("/finance", "finance", False),
        ("a", "a/b", False),
        # 4.8.2, shared subscriptions
        ("$share/consumer1/sport/tennis/+", "sport/tennis/player1", True),
        ("$share/consumer1//finance", "/finance", True),
        ("$share/consumer1/#", "$SYS/monitor", False),
        ("$share/consumer1/+", "sport/tennis", False),
        # what is none
        ("sport/tennis#", "sport/tennis#", False),
        ("a/+", "a/+", False),
        ("#", "", False),
        ("", "", False),
    ],
)  # fmt: skip
def test_examples_of_the_standard(filter: str, topic: str, matches: bool) -> None:
    """Each sentence of it that gives an example."""
    assert filter_matches(filter, topic) is matches


def expression(filter: str) -> str:
    """The filter as a regular expression: another way to say the same."""
    if filter.startswith("$share/"):
        filter = re.sub(r"^\$share/[^/]+/", "", filter)
    begin = r"(?!\$)" if filter[0] in "+#" else ""
    written = re.escape(filter).replace(r"\+", "[^/]*")
    if written == r"\#":
        return begin + ".+"
    return begin + re.sub(r"/\\#$", "(/.*)?", written)


@given(filters, st.text("/ab$", min_size=1, max_size=6))
def test_matching_is_that_of_a_regular_expression(filter: str, topic: str) -> None:
    """For each valid filter; others match nothing."""
    try:
        check_filter(filter)
    except ValueError:
        assert not filter_matches(filter, topic)
        return
    wanted = re.fullmatch(expression(filter), topic, re.DOTALL) is not None
    assert filter_matches(filter, topic) is wanted


@given(topics)
def test_a_topic_is_a_filter_that_matches_it(topic: str) -> None:
    """Itself, and `#` unless it is the server's own."""
    check_topic(topic)
    if not topic.startswith("$share/"):
        check_filter(topic)
        assert filter_matches(topic, topic)
    assert filter_matches("#", topic) is not topic.startswith("$")


@pytest.mark.parametrize(
    "filter",
    ["#", "+", "/", "a//b", "sport/tennis/#", "+/tennis/#", "sport/+/player1", "/+", "$SYS/#",
     "$share/g/a/#", "$share/g//", "$share", "é" * 32_767, " "],
)  # fmt: skip
def test_filters_that_are_valid(filter: str) -> None:
    """So says the standard."""
    check_filter(filter)


@pytest.mark.parametrize(
    ("filter", "said"),
    [
        ("sport/tennis#", "character 13: found '#' beside"),
        ("sport/tennis/#/ranking", "character 14: found '#' before the end"),
        ("sport+", "character 6: found '+' beside"),
        ("a/+b/c", "character 3: found '+' beside"),
        ("##", "character 1: found '#' beside"),
        ("", "expected at least one character"),
        ("a\0b", "character 2: found U+0000"),
        ("a" * 65_536, "at most 65535 bytes of UTF-8, found 65536"),
        ("é" * 32_768, "at most 65535 bytes of UTF-8, found 65536"),
        ("a\ud800", "character 2: found half a character"),
        ("$share/g", "behind '$share/g/'"),
        ("$share/g/", "behind '$share/g/'"),
        ("$share//a", "character 8: expected the name of a group"),
        ("$share/+/a", "character 8: expected the name of a group"),
        ("$share/g/a#", "character 11: found '#' beside"),
    ],
)
def test_filters_that_are_none(filter: str, said: str) -> None:
    """Refused with the place and the reason, in a line that is not longer than one."""
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        check_filter(filter)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a/b#", "a\0", "a" * 65_536, "\udc00"])
def test_topics_that_are_none(topic: str) -> None:
    """Nothing can be published on them, and no subject is made of them."""
    for check in (check_topic, topic_to_subject):
        with pytest.raises(ValueError, match="topic '"):
            check(topic)


def test_topics_that_are_valid() -> None:
    """Also those with control characters, which the standard only advises against."""
    for topic in ("/", " ", "a/b/", "\x01", "a" * 65_535, "$SYS/x", "*", ">", "."):
        check_topic(topic)


def test_what_is_no_text_is_named() -> None:
    """A number in a file of settings is a mistake, not a topic."""
    with pytest.raises(TypeError, match="topic filter: expected text, found 5"):
        check_filter(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="topic: expected text, found b'a'"):
        check_topic(b"a")  # type: ignore[arg-type]
