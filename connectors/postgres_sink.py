"""`PostgresSink`: rows of a table, or a statement of one's own, for each message."""

# ruff: noqa: S608 (names go through `quoted` or `NAME`, values are parameters)
from __future__ import annotations

from types import TracebackType
from typing import Any, Final, Self

import anyio
import msgspec
from msgspec import Struct

from headrace.connectors.addresses import masked
from headrace.connectors.checks import check_number, check_text, kind_and_line, one_line
from headrace.connectors.postgres_connection import (
    ACCESS_CLASSES,
    CLOSE_S,
    LATER_CLASSES,
    NAME,
    Connection,
    Database,
    connect,
    gone,
    quoted,
)
from headrace.connectors.protocol import ConnectorError, SinkRefused, SinkUnavailable

PARAMETERS_MAX: Final = 3


class PostgresMessage(Struct, frozen=True):
    """What `PostgresSink` writes."""

    subject: str = ""
    data: Any = None
    """For a table: the values by column."""


class PostgresSink:
    """Inserts a row for each message, once for each idempotency key; or executes *statement*.

    With *table* the data of a message are values by column, as JSON has them; the key goes into
    *key_column*, which needs a unique index: a row whose key is there is not inserted again.
    With *statement* its parameters are ``$1`` the data as JSON, ``$2`` the key and ``$3`` the
    subject, as far as it has them; whether it can be executed twice is for its author to see to.
    """

    message_type: Any = PostgresMessage
    result_type: Any = int

    def __init__(
        self,
        url: str,
        table: str | None = None,
        *,
        name: str = "postgres",
        statement: str | None = None,
        key_column: str = "idempotency_key",
        connections_max: int = 4,
        password: str | None = None,
        ca_file: str | None = None,
        timeout_s: float = 30.0,
    ) -> None:
        """Name the server and the table, or give a statement; nothing is connected yet.

        Raises:
            TypeError, ValueError, ConnectorError: a setting cannot work.
        """
        self.name = name
        place = f"PostgresSink {name!r}"
        self._place = place
        self._database = Database(
            url, place, password=password, ca_file=ca_file, timeout_s=timeout_s
        )
        if (table is None) == (statement is None):
            found = "neither" if table is None else "both"
            raise ValueError(f"{place}: expected a table or a statement, found {found}")
        self._table = None if table is None else quoted(place, "table", table)
        self._statement = "" if statement is None else check_text(place, "statement", statement)
        self._key_column = quoted(place, "key_column", key_column)
        self._connections_max = check_number(place, "connections_max", connections_max, 1, 100)
        self._pool: Any = None

    async def __aenter__(self) -> Self:
        """Get ready; connections are made when something is sent."""
        settings = self._database.settings()
        import asyncpg

        self._pool = await asyncpg.create_pool(
            **settings, min_size=0, max_size=self._connections_max, connect=connect
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connections at once: the engine has ended what is sent."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with anyio.move_on_after(CLOSE_S, shield=True):
                await pool.close()
                return
            pool.terminate()

    def message_of(self, subject: str, data: Any) -> PostgresMessage:
        """Return the message that forwards an event.

        Raises:
            ValueError: its data are no values by column.
        """
        if self._table is not None and not isinstance(data, dict):
            raise ValueError(
                f"{self._place}: expected data with a value for each column, found {data!r:.80}"
            )
        return PostgresMessage(subject, data)

    async def send(self, message: PostgresMessage, *, key: str) -> int:
        """Insert the row, or execute the statement; return how many rows that has changed."""
        pool = self._pool
        assert pool is not None, "it is opened by the engine"
        statement = self._statement if self._table is None else self._insert(message.data)
        arguments = [msgspec.json.encode(message.data).decode(), key, message.subject]
        try:
            async with pool.acquire() as connection:
                return await self._execute(connection, statement, arguments)
        except gone() as error:
            raise self._failure(error) from error
        except ValueError as error:  # NUL in a text, which PostgreSQL has none of
            raise SinkRefused(f"{self._place}: {one_line(error)}") from error

    async def _execute(self, connection: Connection, statement: str, arguments: list[Any]) -> int:
        prepared = await connection.prepare(statement)
        count = len(prepared.get_parameters())
        if count > PARAMETERS_MAX:
            raise SinkRefused(
                f"{self._place}, statement: expected the parameters $1 (data), $2 (key) and "
                f"$3 (subject), found {count}; take values out of $1, as in $1::jsonb->>'name'"
            )
        await prepared.fetch(*arguments[:count])
        done: str = prepared.get_statusmsg() or ""
        last = done.rpartition(" ")[2]
        return int(last) if last.isdigit() else 0

    def _insert(self, data: Any) -> str:
        """Return the statement that inserts *data*; the server makes its types of the JSON."""
        if not isinstance(data, dict) or not data:
            raise SinkRefused(
                f"{self._place}: expected data with a value for each column, found {data!r:.80}"
            )
        for column in data:
            if not isinstance(column, str) or not NAME.fullmatch(column):
                raise SinkRefused(f"{self._place}: expected names of columns, found {column!r:.80}")
        columns = ", ".join(f'"{column}"' for column in data)
        return (
            f"INSERT INTO {self._table} ({columns}, {self._key_column}) "
            f"SELECT {columns}, $2 FROM jsonb_populate_record(NULL::{self._table}, $1::jsonb) "
            f"ON CONFLICT ({self._key_column}) DO NOTHING"
        )

    def _failure(self, error: Exception) -> SinkUnavailable | SinkRefused:
        state = getattr(error, "sqlstate", None) or ""
        if state.startswith((*ACCESS_CLASSES, *LATER_CLASSES)) or not state:
            refusal: ConnectorError | None = self._database.refusal(error)
            # A password that is wrong today may be right in ten minutes.
            return SinkUnavailable(
                str(refusal)
                if refusal is not None
                else f"{self._place}: {self._database.shown}: {masked(kind_and_line(error))}"
            )
        hint = f"; make a unique index on {self._key_column}" if state == "42P10" else ""
        return SinkRefused(
            f"{self._place}: expected {self._database.shown} to take the message, found "
            f"{masked(one_line(error))!r} (SQLSTATE {state}){hint}"
        )
