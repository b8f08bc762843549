"""A durable pull consumer of JetStream: made, asked for messages, and kept honest.

The requests are written here, since the library's `fetch` makes a task for each message.  See
https://docs.nats.io/reference/reference-protocols/nats_api_reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from headrace.connectors.nats_link import Inbox, Link, LinkLost, NoResponders

NS: Final = 1_000_000_000
EXPIRES_S: Final = 60.0
PULL_BYTES_MAX: Final = 32 * 1024 * 1024
"""Of the messages that answer one request: what is in memory is twice that at most."""
ACK: Final = "$JS.ACK."
NO_STREAM: Final = 10059
NO_CONSUMER: Final = 10014
LATER_CODES: Final = frozenset({10008, 10009, 10023, 10028, 10047})
"""How a server refuses what it may do in a moment: no leader, no resources."""
NO_JETSTREAM: Final = "the server has no JetStream, or not for this account; start it with -js"

Pair = tuple[int, Any]


class Refused(Exception):
    """The server says no, and will again."""


class StreamState(Struct, frozen=True):
    """How a stream is."""

    created: str
    """Its identity: another stream of the same name has another."""
    first: int
    last: int
    messages: int
    retention: Literal["limits", "interest", "workqueue"] = "limits"
    is_synced: bool = False
    """Whether it is known that what is acknowledged survives a loss of power."""


class StreamApi:
    """What can be asked about a stream."""

    def __init__(self, link: Link, domain: str, stream: str) -> None:
        """Ask by *link*."""
        self.link = link
        self.stream_name = stream
        self.prefix = f"$JS.{domain}.API" if domain else "$JS.API"

    async def ask(self, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what is answered.

        Raises:
            Refused: no, with the server's reason.
            LinkLost: not now.
        """
        payload = b"" if body is None else msgspec.json.encode(body)
        try:
            answer = await self.link.request(f"{self.prefix}.{what}", payload)
        except NoResponders:
            raise Refused(NO_JETSTREAM) from None
        try:
            found: dict[str, Any] = msgspec.json.decode(answer.data)
        except msgspec.DecodeError as error:
            raise LinkLost(f"{what}: expected JSON, found {error}") from None
        return found

    async def done(self, what: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what is answered, which is no error; raises as `ask`."""
        found = await self.ask(what, body)
        error = found.get("error")
        if error is None:
            return found
        said = (
            f"{error.get('description', 'an error')} ({error.get('err_code', error.get('code'))})"
        )
        if error.get("err_code") in LATER_CODES:
            raise LinkLost(said)
        raise Refused(said)

    async def stream(self) -> StreamState | None:
        """Return how the stream is; ``None``: there is none."""
        found = await self.ask(f"STREAM.INFO.{self.stream_name}")
        if (found.get("error") or {}).get("err_code") == NO_STREAM:
            return None
        if "error" in found:
            found = await self.done(f"STREAM.INFO.{self.stream_name}")
        state, config = found["state"], found["config"]
        return StreamState(
            found["created"],
            state["first_seq"],
            state["last_seq"],
            state["messages"],
            config.get("retention", "limits"),
        )

    async def make(self, settings: Mapping[str, Any]) -> None:
        """Make the stream."""
        config = {
            "retention": "limits", "storage": "file", "discard": "old", "num_replicas": 1,
            "max_consumers": -1, "max_msgs": -1, "max_bytes": -1, "max_age": 0,
        }  # fmt: skip
        await self.done(
            f"STREAM.CREATE.{self.stream_name}",
            config | dict(settings) | {"name": self.stream_name},
        )

    async def consumer(self, name: str) -> dict[str, Any] | None:
        """Return how a consumer is; ``None``: there is none."""
        what = f"CONSUMER.INFO.{self.stream_name}.{name}"
        found = await self.ask(what)
        if (found.get("error") or {}).get("err_code") == NO_CONSUMER:
            return None
        return found if "error" not in found else await self.done(what)

    async def make_consumer(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Make one; return how it is."""
        return await self.done(
            f"CONSUMER.DURABLE.CREATE.{self.stream_name}.{config['durable_name']}",
            {"stream_name": self.stream_name, "config": config},
        )

    async def delete_consumer(self, name: str) -> None:
        """Delete one, if it is there."""
        found = await self.ask(f"CONSUMER.DELETE.{self.stream_name}.{name}")
        if "error" in found and found["error"].get("err_code") != NO_CONSUMER:
            await self.done(f"CONSUMER.DELETE.{self.stream_name}.{name}")


class Consumer:
    """What one connection has of a durable consumer."""

    def __init__(
        self,
        api: StreamApi,
        inbox: Inbox,
        name: str,
        *,
        place: str,
        subjects: Sequence[str],
        in_flight_max: int,
        ack_wait_s: float,
        heartbeat_s: float,
    ) -> None:
        """Take the settings; `open` makes it."""
        self.api, self.inbox, self.name = api, inbox, name
        self.pending = 0
        """How many messages the stream had behind the last that came."""
        self._place = place
        self._subjects = list(subjects)
        self._in_flight_max = in_flight_max
        self._ack_wait_s = ack_wait_s
        self._heartbeat_s = heartbeat_s
        self._asked = 0
        """How many messages are asked for and have not come."""
        self._delivered = 0
        """The server's number of the last delivery."""
        self._highest = 0
        """The place in the stream of the last message that came."""
        self._acks_each = False
        self._heard = True
        self._subject = ""

    async def open(self, state: StreamState, cursor: int | None, start: str | int) -> None:
        """Be sure that it is there, and gives next what is behind *cursor*."""
        found = await self._existing(state)
        if found is None or not self._fits(found, cursor):
            found = await self._anew(state, found, cursor, start)
        config = found["config"]
        self._acks_each = config.get("ack_policy") != "all"
        self._delivered = found["delivered"]["consumer_seq"]
        self._highest = -1 if cursor is None else cursor
        if most := config.get("max_ack_pending", 0):
            self._in_flight_max = (
                min(self._in_flight_max, most) if most > 0 else self._in_flight_max
            )
        link = self.api.link
        self._subject = link.client.new_inbox()
        await link.subscribe(self._subject, self._came)

    async def _existing(self, state: StreamState) -> dict[str, Any] | None:
        found = await self.api.consumer(self.name)
        if state.retention == "interest":
            # Of two with these names the first is the one to go on with.
            other = f"{self.name}-next"
            if found is None:
                found = await self.api.consumer(other)
                self.name = other if found is not None else self.name
            else:
                await self.api.delete_consumer(other)
        if found is None:
            return None
        config = found["config"]
        if config.get("deliver_subject"):
            raise Refused("one that pushes; delete it, or name another as durable")
        if config.get("ack_policy") not in ("all", "explicit"):
            raise Refused("one without acknowledgements; delete it, or name another as durable")
        return found

    def _fits(self, found: dict[str, Any], cursor: int | None) -> bool:
        """Say whether it goes on exactly behind what is stored, and nothing comes again."""
        if found["num_ack_pending"] or _filters(found["config"]) != sorted(self._subjects):
            return False
        # Without a cursor it is one that somebody has made for this, or had before.
        return cursor is None or found["delivered"]["stream_seq"] == cursor

    async def _anew(
        self, state: StreamState, found: dict[str, Any] | None, cursor: int | None, start: str | int
    ) -> dict[str, Any]:
        """Make it anew, to begin behind what is stored."""
        config = self._config(state, found["config"] if found else None)
        if cursor is None and found is not None:
            cursor = found["ack_floor"]["stream_seq"]
        if state.retention == "workqueue" or (cursor is None and start == "first"):
            # A work queue has only what was not acknowledged: all of it.
            config |= {"deliver_policy": "all"}
        elif cursor is None and start == "new":
            config |= {"deliver_policy": "new"}
        else:
            first = int(start) if cursor is None else cursor + 1
            config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": first}
        if found is None:
            return await self.api.make_consumer(config)
        if state.retention != "interest":
            await self.api.delete_consumer(self.name)
            return await self.api.make_consumer(config)
        # The stream keeps what somebody wants: at no moment nobody may.
        before = self.name
        self.name = before.removesuffix("-next") if before.endswith("-next") else f"{before}-next"
        config |= {"durable_name": self.name, "name": self.name}
        await self.api.delete_consumer(self.name)
        made = await self.api.make_consumer(config)
        await self.api.delete_consumer(before)
        return made

    def _config(self, state: StreamState, before: dict[str, Any] | None) -> dict[str, Any]:
        config: dict[str, Any] = dict(before) if before is not None else {
            "ack_policy": "explicit" if state.retention == "workqueue" else "all",
            "ack_wait": round(self._ack_wait_s * NS),
            "max_ack_pending": self._in_flight_max,
            "max_deliver": -1,
            "replay_policy": "instant",
        }  # fmt: skip
        for name in ("opt_start_seq", "opt_start_time", "filter_subject", "filter_subjects"):
            config.pop(name, None)
        config |= {"durable_name": self.name, "name": self.name}
        if len(self._subjects) == 1:
            config["filter_subject"] = self._subjects[0]
        elif self._subjects:
            config["filter_subjects"] = self._subjects
        return config

    # ------------------------------------------------------------ messages

    async def ask(self) -> None:
        """Ask for as many messages as there is room for, if that is much."""
        room = self._in_flight_max - self._asked - len(self.inbox.waiting)
        if room < max(1, self._in_flight_max // 2):
            return
        self._asked += room
        body = {
            "batch": room,
            "expires": round(max(EXPIRES_S, 3 * self._heartbeat_s) * NS),
            "idle_heartbeat": round(self._heartbeat_s * NS),
            "max_bytes": max(PULL_BYTES_MAX, 2 * self.api.link.client.max_payload),
        }
        await self.api.link.publish(
            f"{self.api.prefix}.CONSUMER.MSG.NEXT.{self.api.stream_name}.{self.name}",
            msgspec.json.encode(body),
            self._subject,
        )

    def _came(self, message: Any) -> None:
        self._heard = True
        inbox = self.inbox
        if message.reply.startswith(ACK):
            inbox.waiting.append(message)
            self._asked -= 1
            inbox.ring()
        elif message.headers and not message.reply:
            self._told(message.headers)

    def _told(self, headers: Mapping[str, str]) -> None:
        """Hear what the server says of a request."""
        status, said = headers.get("Status", ""), headers.get("Description", "")
        if status == "100":
            return
        low = said.lower()
        if status in ("404", "408") or (status == "409" and ("batch" in low or "maxbytes" in low)):
            left = headers.get("Nats-Pending-Messages", "")
            self._asked = self._asked - int(left) if left.isdigit() else 0
            self._asked = max(0, self._asked)
            self.inbox.ring()
        else:
            self.api.link.lose(f"the server ended the consumer's request: {status} {said}")

    async def batch(self) -> list[Pair]:
        """Return the next messages with their places; none after a while without any.

        Raises:
            LinkLost: one is missing, or is out of its order; or the server is silent.
        """
        inbox = self.inbox
        if not inbox.waiting and not await inbox.rings(2 * self._heartbeat_s):
            if not self._heard:
                raise LinkLost(f"nothing heard of the consumer for {2 * self._heartbeat_s:g} s")
            self._heard = False
        batch: list[Pair] = []
        for message in inbox.take():
            # $JS.ACK.[domain.account.]stream.consumer.tries.place.delivery.time.waiting[.token]
            tokens = message.reply.split(".")
            at = 4 if len(tokens) == 9 else 6
            tries, place, delivery = tokens[at : at + 3]
            sequence, number = int(place), int(delivery)
            if number != self._delivered + 1:
                raise LinkLost(
                    f"delivery {number} came behind {self._delivered}: something else takes from "
                    f"consumer {self.name!r}, or messages were lost on the way"
                )
            self._delivered = number
            self.pending = int(tokens[at + 4])
            if sequence > self._highest:
                if tries != "1":
                    raise LinkLost(f"message {sequence} was delivered before, to somebody else")
                self._highest = sequence
            batch.append((sequence, message))
        return batch

    async def acknowledge(self, batch: list[Pair]) -> None:
        """Say that all of *batch* are stored."""
        publish = self.api.link.publish
        if self._acks_each:
            for _, message in batch:
                await publish(message.reply, b"+ACK")
        else:
            # Of those that came again the place may be before that of the others.
            await publish(max(batch, key=_place)[1].reply, b"+ACK")


def _place(pair: Pair) -> int:
    return pair[0]


def _filters(config: Mapping[str, Any]) -> list[str]:
    one = config.get("filter_subject")
    return [one] if one else sorted(config.get("filter_subjects") or [])
