"""PostgreSQL as a source: `PostgresOutbox` brings in the rows of a table, `PostgresNotify` listens.

How the outbox keeps each row from being skipped or stored twice.  A cursor over the ids of the
rows would skip: a transaction that commits late brings rows with lower ids.  So rows are taken
out.  One statement moves them into a table beside the outbox, ``<table>_taken``, where each gets
the next place; there they stay until they are in the log, and are deleted then.  Only one
connection at a time takes rows for a log (an advisory lock), so places are given and stored in
their order, and the cursor in the log says which of them are stored, however long ago.
"""

# ruff: noqa: S608 (names go through `quoted` or `NAME`, values are parameters)
from __future__ import annotations

from collections import deque
from typing import Any, Final

import anyio

from headrace.connectors.checks import check_flag, check_number, check_subject, check_text, label
from headrace.connectors.intake import Intake
from headrace.connectors.payloads import BadPayload, Payload, reader
from headrace.connectors.postgres_connection import Connection, Database, gone, quoted
from headrace.connectors.promises import Promise
from headrace.connectors.protocol import ConnectorError
from headrace.connectors.sessions import keep_up
from headrace.connectors.tokens import token_of
from headrace.engine.emission import Emission
from headrace.engine.subject import check_emit

LOCK_CLASS: Final = 0x68647263
"""Of the advisory locks of headrace."""
LOCK_TRIES: Final = 50
LOCK_WAIT_S: Final = 0.1
HEARTBEAT_S: Final = 5.0

Row = tuple[int, str, str | None, bytes | None]
"""Place, id, subject and data."""


class PostgresOutbox:
    """Brings in the rows of an outbox table, and takes them out of it.

    Promise: exactly once.  A row is moved beside the outbox, stored, and then deleted; its place
    there is the position of its event, and its id is the event's id.  Rows come in the order of
    their ids among those that are committed at the time.
    """

    promise: Promise = "exactly once"

    def __init__(
        self,
        url: str,
        table: str = "outbox",
        *,
        name: str = "outbox",
        subject: str | None = None,
        payload: Payload = "json",
        id_column: str = "id",
        subject_column: str = "subject",
        data_column: str = "data",
        channel: str | None = None,
        create: bool = True,
        batch_max: int = 1000,
        poll_s: float = 1.0,
        password: str | None = None,
        ca_file: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """Name the server and the table; nothing is connected yet.

        *subject* is that of all events; without it the column says it.  A NOTIFY on *channel*,
        by default ``<table>_added``, wakes it up; it also looks every *poll_s* seconds.
        *create* makes the tables and the trigger that are not there; `schema` says what they are.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work.
        """
        self.name = name
        place = f"PostgresOutbox {name!r}"
        self._place = place
        self._database = Database(
            url, place, password=password, ca_file=ca_file, timeout_s=timeout_s
        )
        self._table = quoted(place, "table", table)
        self._table_text = table
        self._taken = quoted(place, "table", f"{table}_taken")
        self._id = quoted(place, "id_column", id_column)
        self._data = quoted(place, "data_column", data_column)
        self._subject_column = quoted(place, "subject_column", subject_column)
        self._subject = None if subject is None else check_subject(place, "subject", subject)
        self._channel = channel or f"{table.rpartition('.')[2]}_added"
        quoted(place, "channel", self._channel)
        self._create = check_flag(place, "create", create)
        self._batch_max = check_number(place, "batch_max", batch_max, 1, 100_000)
        self._poll_s = check_number(place, "poll_s", poll_s, 0.01, 3600.0)
        self._read = reader(payload, place)
        self._cursor_name = f"{name}:{label(table)}"

    def schema(self) -> str:
        """Return the statements that make what `create` makes, for those who migrate by hand."""
        return f"{self._outbox_schema()}\n{self._taken_schema()}"

    def _outbox_schema(self) -> str:
        wake = f'"{self._channel}"'
        schema = self._table.rpartition(".")[0]
        function = f"{schema}.{wake}" if schema else wake
        return (
            f"CREATE TABLE {self._table} (\n"
            f"  {self._id} bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n"
            f"  {self._subject_column} text NOT NULL,\n"
            f"  {self._data} jsonb\n);\n"
            f"CREATE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS\n"
            f"  $$ BEGIN PERFORM pg_notify('{self._channel}', ''); RETURN NULL; END $$;\n"
            f"CREATE TRIGGER {wake} AFTER INSERT ON {self._table}\n"
            f"  FOR EACH STATEMENT EXECUTE FUNCTION {function}();"
        )

    def _taken_schema(self) -> str:
        return (
            f"CREATE TABLE IF NOT EXISTS {self._taken} (\n"
            f"  place bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,\n"
            f"  taker text NOT NULL,\n"
            f"  id text NOT NULL,\n"
            f"  subject text,\n"
            f"  data bytea\n);"
        )

    async def run(self, intake: Intake) -> None:
        """Bring rows in until cancelled.

        Raises:
            ConnectorError: at the first connection, what trying again cannot mend.
        """
        self._database.settings()
        await keep_up(intake, lambda: self._session(intake), gone())

    async def _session(self, intake: Intake) -> None:
        taker = intake.engine.log.log_id.hex()
        async with self._database.connected() as connection:
            await self._prepare(connection)
            await self._alone(connection, f"{taker} {self._table}")
            await self._place_behind(connection, intake.cursor(self._cursor_name))
            waking = _Waking()
            connection.add_termination_listener(waking.wake)
            await connection.add_listener(self._channel, waking.wake)
            take = await connection.prepare(await self._take_statement(connection))
            intake.connected(server=self._database.shown, table=self._table_text)
            await self._put(connection, intake, taker, await self._left(connection, taker))
            while True:
                waking.sleep()
                rows: list[Row] = [tuple(row) for row in await take.fetch(taker, self._batch_max)]
                await self._put(connection, intake, taker, rows)
                if len(rows) < self._batch_max:
                    intake.status.lag = 0
                    await waking.wait(self._poll_s)

    # ------------------------------------------------------------ before rows are taken

    async def _prepare(self, connection: Connection) -> None:
        """Be sure that the tables are there."""
        for table, schema in (
            (self._table, self._outbox_schema()),
            (self._taken, self._taken_schema()),
        ):
            if await connection.fetchval("SELECT to_regclass($1)::oid", table) is None:
                if not self._create:
                    raise ConnectorError(
                        f"{self._place}: expected a table {table} at {self._database.shown}, "
                        f"found none; make it as PostgresOutbox.schema() says, or set create=True"
                    )
                async with connection.transaction():
                    await connection.execute(schema)

    async def _alone(self, connection: Connection, what: str) -> None:
        """Be the only one to take rows for this log.

        Who holds the lock is a connection of ours that was cut off: nobody else has this log.
        """
        for _ in range(LOCK_TRIES):
            if await connection.fetchval(
                "SELECT pg_try_advisory_lock($1, hashtext($2))", LOCK_CLASS, what
            ):
                return
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND "
                "granted AND database = (SELECT oid FROM pg_database WHERE datname = "
                "current_database()) AND classid = $1::int8 AND objsubid = 2 AND "
                "objid = hashtext($2)::int8 & 4294967295 AND pid <> pg_backend_pid()",
                LOCK_CLASS,
                what,
            )
            await anyio.sleep(LOCK_WAIT_S)
        raise OSError(f"another connection has taken rows of {self._table} for this log till now")

    async def _place_behind(self, connection: Connection, cursor: int | None) -> None:
        """Let no place come again that is stored: a server may come back from an older copy."""
        if cursor:
            await connection.execute(
                "SELECT setval(s, $1) FROM pg_get_serial_sequence($2, 'place') AS s "
                "WHERE coalesce(pg_sequence_last_value(s::regclass), 0) < $1",
                cursor,
                self._taken,
            )

    async def _take_statement(self, connection: Connection) -> str:
        kind = await connection.fetchval(
            "SELECT format_type(atttypid, NULL) FROM pg_attribute "
            "WHERE attrelid = to_regclass($1) AND attname = $2 AND NOT attisdropped",
            self._table,
            self._data.strip('"'),
        )
        data = "data" if kind == "bytea" else "convert_to(data::text, 'UTF8')"
        subject = "NULL" if self._subject is not None else f"o.{self._subject_column}::text"
        # Sorted before the places are given: they are in the order of the ids.
        return (
            f"WITH these AS (SELECT {self._id} AS id FROM {self._table} "
            f"ORDER BY {self._id} LIMIT $2 FOR UPDATE SKIP LOCKED), "
            f"taken AS (DELETE FROM {self._table} AS o USING these "
            f"WHERE o.{self._id} = these.id "
            f"RETURNING o.{self._id} AS id, {subject} AS subject, o.{self._data} AS data), "
            f"placed AS (INSERT INTO {self._taken} (taker, id, subject, data) "
            f"SELECT $1, id::text, subject, {data} FROM taken ORDER BY taken.id "
            f"RETURNING place, id, subject, data) "
            f"SELECT place, id, subject, data FROM placed ORDER BY place"
        )

    # ------------------------------------------------------------ rows

    async def _left(self, connection: Connection, taker: str) -> list[Row]:
        """Return what was taken before and not deleted."""
        found = await connection.fetch(
            f"SELECT place, id, subject, data FROM {self._taken} WHERE taker = $1 ORDER BY place",
            taker,
        )
        return [tuple(row) for row in found]

    async def _put(
        self, connection: Connection, intake: Intake, taker: str, rows: list[Row]
    ) -> None:
        """Store the rows that are not stored yet, then delete them all."""
        cursor = intake.cursor(self._cursor_name)
        new = [row for row in rows if cursor is None or row[0] > cursor]
        if new:
            await intake.put([self._event(row, intake) for row in new])
        if rows:
            await connection.execute(
                f"DELETE FROM {self._taken} WHERE taker = $1 AND place <= $2", taker, rows[-1][0]
            )

    def _event(self, row: Row, intake: Intake) -> Emission:
        place, row_id, subject, data = row
        event_id = label(row_id)
        try:
            return Emission(
                self._subject_of(subject),
                None if data is None else self._read(data),
                id=event_id,
                source=self._cursor_name,
                position=place,
            )
        except BadPayload as error:
            return intake.refusal(
                data or b"",
                str(error),
                place=f"{self._table_text} {row_id}",
                id=event_id,
                position=place,
                source=self._cursor_name,
            )

    def _subject_of(self, found: str | None) -> str:
        if self._subject is not None:
            return self._subject
        try:
            check_emit(found or "")
        except ValueError as error:
            raise BadPayload(f"column {self._subject_column}: {error}") from None
        return found or ""


class PostgresNotify:
    """Brings in what is sent by NOTIFY.

    Promise: at most once.  PostgreSQL keeps no notification for who is not connected, and says
    of none whether it has come before.  Up to *waiting_max* are kept while the engine is slow;
    then the oldest are dropped.  For what must not be lost use an outbox.
    """

    promise: Promise = "at most once"

    def __init__(
        self,
        url: str,
        channels: list[str],
        *,
        name: str = "notify",
        subject: str | None = None,
        payload: Payload = "json",
        waiting_max: int = 10_000,
        batch_max: int = 1000,
        password: str | None = None,
        ca_file: str | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Name the server and the channels; events have the subject ``postgres.<channel>``.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work.
        """
        self.name = name
        place = f"PostgresNotify {name!r}"
        self._database = Database(
            url, place, password=password, ca_file=ca_file, timeout_s=timeout_s
        )
        wanted: Any = channels
        if not isinstance(wanted, list) or not wanted:
            raise TypeError(
                f"{place}, channels: expected a list of channels, found {channels!r:.80}"
            )
        self._channels = [check_text(place, "channels", channel) for channel in channels]
        self._subject = None if subject is None else check_subject(place, "subject", subject)
        self._waiting_max = check_number(place, "waiting_max", waiting_max, 1, 10_000_000)
        self._batch_max = check_number(place, "batch_max", batch_max, 1, 100_000)
        self._read = reader(payload, place)

    async def run(self, intake: Intake) -> None:
        """Bring notifications in until cancelled.

        Raises:
            ConnectorError: at the first connection, what trying again cannot mend.
        """
        self._database.settings()
        await keep_up(intake, lambda: self._session(intake), gone())

    async def _session(self, intake: Intake) -> None:
        waiting: deque[tuple[str, str]] = deque()
        waking, dropped = _Waking(), 0

        def take(_connection: Any, _pid: int, channel: str, payload: str) -> None:
            nonlocal dropped
            waiting.append((channel, payload))
            if len(waiting) > self._waiting_max:
                waiting.popleft()
                dropped += 1
                if dropped.bit_count() == 1:
                    intake.logger.warning("notifications_dropped", so_far=dropped)
            waking.wake()

        async with self._database.connected() as connection:
            connection.add_termination_listener(waking.wake)
            for channel in self._channels:
                await connection.add_listener(channel, take)
            intake.connected(server=self._database.shown, channels=self._channels)
            while True:
                waking.sleep()
                if waiting:
                    count = min(len(waiting), self._batch_max)
                    taken = [waiting.popleft() for _ in range(count)]
                    await intake.put([self._event(*one, intake) for one in taken])
                elif not await waking.wait(HEARTBEAT_S):
                    # A server that is gone without a word does not answer this.
                    await connection.execute("SELECT 1")
                elif connection.is_closed():
                    raise OSError("the connection was closed")

    def _event(self, channel: str, payload: str, intake: Intake) -> Emission:
        try:
            data = self._read(payload.encode()) if payload else None
        except BadPayload as error:
            return intake.refusal(payload.encode(), str(error), place=channel)
        return Emission(self._subject or f"postgres.{token_of(channel)}", data)


class _Waking:
    """Sleeps until it is woken up, or for a time."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def wake(self, *_: Any) -> None:
        """Also if nobody sleeps yet: then the next sleep is none."""
        self._event.set()

    def sleep(self) -> None:
        """Forget that it was woken up; what comes from now on counts."""
        if self._event.is_set():
            self._event = anyio.Event()

    async def wait(self, most_s: float) -> bool:
        """Return once it is woken up, or after *most_s*; say whether it was."""
        with anyio.move_on_after(most_s):
            await self._event.wait()
        return self._event.is_set()
