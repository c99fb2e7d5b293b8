"""One class for each Python driver: the same few calls, done in the driver's own way. See driver_cases.py.

Texts have $1, $2 ... in their order, once each; every class puts its driver's placeholders there.
"""

import asyncio
import decimal
import io
import os
import re
import socket
import threading

NO_ORM = {"orm": "a driver, not an object-relational mapper"}


def cut(descriptor: int):
    """Ends the TCP connection under its driver, which says no goodbye."""
    copy = socket.socket(fileno=os.dup(descriptor))
    copy.shutdown(socket.SHUT_RDWR)
    copy.close()


class Driver:
    """In autocommit between begin() and commit(), as new connections are."""

    name = ""
    cannot: dict[str, str] = {}
    cancels_once = False
    decimal = decimal.Decimal

    def __init__(self, conninfo: str):
        self.conninfo = conninfo
        self.words = dict(word.split("=", 1) for word in conninfo.split())

    def another(self):
        other = type(self)(self.conninfo)
        other.connect()
        return other

    def script(self, text: str):
        self.query(text)

    def rollback_if_needed(self):
        pass

    def cancel_when(self, is_running, cancel, run):
        """Runs, and from another thread cancels while `is_running` says so: one that comes between the messages that
        begin a statement has no effect."""
        ended = threading.Event()
        failures = []

        def watch():
            try:
                while not ended.is_set():
                    if is_running():
                        cancel()
            except Exception as error:
                failures.append(error)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            return run()
        finally:
            ended.set()
            watcher.join()
            assert not failures, failures


def by_statement(driver, text: str):
    """PREPARE and EXECUTE, for drivers that prepare in no other way."""
    driver.query(f"PREPARE shelf_row (int) AS {text}")
    return lambda number: driver.query(f"EXECUTE shelf_row ({number})")


# MARK: psycopg 3


class Psycopg(Driver):
    """The extended protocol, text format; prepares what it has seen five times."""

    name = "psycopg"
    cannot = NO_ORM
    threshold = 5
    placeholder = "%s"

    def connect(self):
        import psycopg

        self.connection = psycopg.connect(self.conninfo, autocommit=True, prepare_threshold=self.threshold)

    def close(self):
        self.connection.close()

    def cursor(self):
        return self.connection.cursor()

    def placed(self, text: str) -> str:
        return re.sub(r"\$\d+", self.placeholder, text)

    def query(self, text: str, *arguments, **options):
        cursor = self.cursor()
        cursor.execute(self.placed(text) if arguments else text, arguments or None, **options)
        return cursor.fetchall() if cursor.description else []

    def script(self, text: str):
        self.connection.execute(text, prepare=False)

    def begin(self):
        self.connection.autocommit = False

    def commit(self):
        self.connection.commit()
        self.connection.autocommit = True

    def rollback(self):
        self.connection.rollback()
        self.connection.autocommit = True

    def prepare(self, text: str):
        return lambda *arguments: self.query(text, *arguments, prepare=True)

    def copy_in(self, text: str, lines: str):
        with self.connection.cursor().copy(text) as copy:
            copy.write(lines)

    def copy_out(self, text: str) -> str:
        with self.connection.cursor().copy(text) as copy:
            return b"".join(bytes(part) for part in copy).decode()

    def query_cancelled(self, text: str, is_running):
        return self.cancel_when(is_running, self.connection.cancel_safe, lambda: self.query(text))

    def pipeline(self, statements):
        with self.connection.pipeline():
            cursors = []
            for text, arguments in statements:
                cursors.append(self.cursor())
                cursors[-1].execute(self.placed(text), arguments)
        return [cursor.fetchall() if cursor.description else [] for cursor in cursors]

    def executemany(self, text: str, rows):
        with self.connection.cursor() as cursor:
            cursor.executemany(self.placed(text), rows)

    def drop(self):
        cut(self.connection.fileno())

    @staticmethod
    def state(error) -> str | None:
        return getattr(error, "sqlstate", None)


class PsycopgPrepared(Psycopg):
    """Prepares everything at once."""

    name = "psycopg, prepared"
    threshold = 0


class PsycopgBinary(Psycopg):
    """Parameters and results in the binary format."""

    name = "psycopg, binary"
    placeholder = "%b"

    def cursor(self):
        return self.connection.cursor(binary=True)


class PsycopgSimple(Psycopg):
    """Parameters put into the text, and the simple protocol."""

    name = "psycopg, simple"
    cannot = NO_ORM | {"pipeline": "libpq's pipeline mode has no simple protocol"}
    prepare = by_statement

    def cursor(self):
        import psycopg

        return psycopg.ClientCursor(self.connection)


class Psycopg2(Driver):
    """The simple protocol only."""

    name = "psycopg2"
    cannot = NO_ORM | {"pipeline": "psycopg2 has no pipelines"}
    prepare = by_statement

    def connect(self):
        import psycopg2

        self.connection = psycopg2.connect(self.conninfo)
        self.connection.autocommit = True

    def close(self):
        self.connection.close()

    def query(self, text: str, *arguments):
        cursor = self.connection.cursor()
        cursor.execute(re.sub(r"\$\d+", "%s", text) if arguments else text, arguments or None)
        return cursor.fetchall() if cursor.description else []

    begin, commit, rollback = Psycopg.begin, Psycopg.commit, Psycopg.rollback

    def copy_in(self, text: str, lines: str):
        self.connection.cursor().copy_expert(text, io.StringIO(lines))

    def copy_out(self, text: str) -> str:
        out = io.StringIO()
        self.connection.cursor().copy_expert(text, out)
        return out.getvalue()

    def query_cancelled(self, text: str, is_running):
        return self.cancel_when(is_running, self.connection.cancel, lambda: self.query(text))

    def executemany(self, text: str, rows):
        from psycopg2.extras import execute_batch

        execute_batch(self.connection.cursor(), re.sub(r"\$\d+", "%s", text), rows)

    def drop(self):
        cut(self.connection.fileno())

    @staticmethod
    def state(error) -> str | None:
        return getattr(error, "pgcode", None)


# MARK: drivers with a protocol of their own


class Asyncpg(Driver):
    """Prepares everything, in the binary format; what has no parameters can be simple."""

    name = "asyncpg"
    cancels_once = True
    cannot = NO_ORM | {"pipeline": "asyncpg has none but executemany, which is a case of its own"}

    def wait(self, awaitable):
        return self.loop.run_until_complete(awaitable)

    def connect(self):
        import asyncpg

        self.loop = asyncio.new_event_loop()
        self.connection = self.wait(asyncpg.connect(
            host=self.words["host"], port=int(self.words["port"]), database=self.words["dbname"],
            user=self.words["user"], ssl=False))

    def close(self):
        self.wait(self.connection.close())
        self.loop.close()

    def query(self, text: str, *arguments):
        return [tuple(row) for row in self.wait(self.connection.fetch(text, *arguments))]

    def script(self, text: str):
        self.wait(self.connection.execute(text))

    def begin(self):
        self.transaction = self.connection.transaction()
        self.wait(self.transaction.start())

    def commit(self):
        self.wait(self.transaction.commit())

    def rollback(self):
        self.wait(self.transaction.rollback())

    def prepare(self, text: str):
        statement = self.wait(self.connection.prepare(text, name="shelf_row"))
        return lambda *arguments: [tuple(row) for row in self.wait(statement.fetch(*arguments))]

    def copy_in(self, text: str, lines: str):
        assert text == "COPY t FROM STDIN"
        self.wait(self.connection.copy_to_table("t", source=io.BytesIO(lines.encode())))

    def copy_out(self, text: str) -> str:
        out = io.BytesIO()
        inner = re.fullmatch(r"COPY \((.*)\) TO STDOUT", text).group(1)
        self.wait(self.connection.copy_from_query(inner, output=out))
        return out.getvalue().decode()

    def query_cancelled(self, text: str, is_running):
        task = self.loop.create_task(self.connection.fetch(text))

        async def run():
            # The watcher is a connection with a loop of its own.
            while not await self.loop.run_in_executor(None, is_running):
                pass
            task.cancel()
            await asyncio.wait([task])
            await self.connection.fetchval("SELECT 1")  # while the loop still runs, which sends the request
            return task.result()

        try:
            return self.wait(run())
        except asyncio.CancelledError as error:
            raise RuntimeError("57014") from error

    def executemany(self, text: str, rows):
        self.wait(self.connection.executemany(text, rows))

    def drop(self):
        self.connection.terminate()

    @staticmethod
    def state(error) -> str | None:
        return getattr(error, "sqlstate", None) or (str(error) if isinstance(error, RuntimeError) else None)


class Pg8000(Driver):
    """Its native interface: simple without parameters, unnamed statements with them, named ones when prepared."""

    name = "pg8000"
    cannot = NO_ORM | {"cancel": "pg8000 sends no cancel requests", "pipeline": "pg8000 has no pipelines",
                       "executemany": "pg8000's native interface has none; SQLAlchemy's case uses the other one"}

    def connect(self):
        import pg8000.native

        self.connection = pg8000.native.Connection(
            self.words["user"], host=self.words["host"], port=int(self.words["port"]), database=self.words["dbname"])

    def close(self):
        self.connection.close()

    @staticmethod
    def named(text: str) -> str:
        return re.sub(r"\$(\d+)", r":p\1", text)

    @staticmethod
    def parameters(arguments) -> dict:
        return {f"p{place}": argument for place, argument in enumerate(arguments, 1)}

    def query(self, text: str, *arguments):
        rows = self.connection.run(self.named(text) if arguments else text, **self.parameters(arguments))
        return [tuple(row) for row in rows or []]

    def begin(self):
        self.connection.run("START TRANSACTION")

    def commit(self):
        self.connection.run("COMMIT")

    def rollback(self):
        self.connection.run("ROLLBACK")

    def prepare(self, text: str):
        statement = self.connection.prepare(self.named(text))
        return lambda *arguments: [tuple(row) for row in statement.run(**self.parameters(arguments))]

    def copy_in(self, text: str, lines: str):
        self.connection.run(text, stream=io.StringIO(lines))

    def copy_out(self, text: str) -> str:
        out = io.StringIO()
        self.connection.run(text, stream=out)
        return out.getvalue()

    def drop(self):
        cut(self.connection._usock.fileno())

    @staticmethod
    def state(error) -> str | None:
        return error.args[0].get("C") if error.args and isinstance(error.args[0], dict) else None


# MARK: object-relational mappers


class SQLAlchemy(Driver):
    """One connection of an engine, its transactions SQLAlchemy's own; drivers' texts, and a mapped class."""

    name = "SQLAlchemy"
    dialect = "psycopg"
    cannot = {"pipeline": "SQLAlchemy has no pipelines"}

    def connect(self):
        from sqlalchemy import create_engine

        words = self.words
        self.engine = create_engine(
            f"postgresql+{self.dialect}://{words['user']}@{words['host']}:{words['port']}/{words['dbname']}",
            pool_size=1, max_overflow=0)
        self.connection = self.engine.connect()
        self.autocommit(True)

    def autocommit(self, on: bool):
        level = "AUTOCOMMIT" if on else "READ COMMITTED"
        self.is_autocommit = on
        self.connection.execution_options(isolation_level=level)

    @property
    def raw(self):
        return self.connection.connection.driver_connection

    def close(self):
        self.connection.close()
        self.engine.dispose()

    def query(self, text: str, *arguments):
        text = re.sub(r"\$\d+", "%s", text) if arguments else text
        result = self.connection.exec_driver_sql(text, arguments or None)
        rows = [tuple(row) for row in result] if result.returns_rows else []
        if self.is_autocommit:
            self.connection.commit()
        return rows

    def begin(self):
        self.connection.commit()
        self.autocommit(False)

    def commit(self):
        self.connection.commit()
        self.autocommit(True)

    def rollback(self):
        self.connection.rollback()
        self.autocommit(True)

    def prepare(self, text: str):
        return lambda *arguments: self.query(text, *arguments)  # psycopg prepares it after some calls

    def script(self, text: str):
        self.raw.cursor().execute(text)

    def copy_in(self, text: str, lines: str):
        with self.raw.cursor().copy(text) as copy:
            copy.write(lines)

    def copy_out(self, text: str) -> str:
        with self.raw.cursor().copy(text) as copy:
            return b"".join(bytes(part) for part in copy).decode()

    def query_cancelled(self, text: str, is_running):
        return self.cancel_when(is_running, self.raw.cancel_safe, lambda: self.query(text))

    def executemany(self, text: str, rows):
        self.connection.exec_driver_sql(re.sub(r"\$\d+", "%s", text), rows)
        self.connection.commit()

    def drop(self):
        cut(self.raw.fileno())

    def orm(self):
        from sqlalchemy import func, select, update
        from sqlalchemy.exc import IntegrityError
        from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

        class Base(DeclarativeBase):
            pass

        class Row(Base):
            __tablename__ = "t"
            id: Mapped[int] = mapped_column(primary_key=True)
            v: Mapped[str | None]

        self.autocommit(False)
        with Session(self.connection) as session:
            session.add_all([Row(id=number, v=f"row {number}") for number in range(1, 501)])
            session.commit()
            assert session.get(Row, 7).v == "row 7"
            session.scalars(select(Row).where(Row.id == 7).with_for_update()).one().v = "seven"
            session.commit()
            session.execute(update(Row).where(Row.id > 400).values(v="many"))
            try:
                with session.begin_nested():
                    session.add(Row(id=1, v="again"))
                    session.flush()
            except IntegrityError:
                pass
            session.commit()
            assert session.scalar(select(func.count()).where(Row.v == "many")) == 100
            rows = session.scalars(select(Row).order_by(Row.id).execution_options(yield_per=50))
            assert [row.id for row in rows] == list(range(1, 501))
            session.delete(session.get(Row, 7))
            session.commit()
            assert session.get(Row, 7) is None
        self.autocommit(True)

    @staticmethod
    def state(error) -> str | None:
        error = getattr(error, "orig", error)
        return Psycopg.state(error) or Psycopg2.state(error) or Pg8000.state(error)


class SQLAlchemyPg8000(SQLAlchemy):
    name = "SQLAlchemy, pg8000"
    dialect = "pg8000"
    cannot = SQLAlchemy.cannot | {"cancel": Pg8000.cannot["cancel"]}
    prepare = by_statement

    def copy_in(self, text: str, lines: str):
        self.raw.cursor().execute(text, stream=io.StringIO(lines))

    def copy_out(self, text: str) -> str:
        out = io.StringIO()
        self.raw.cursor().execute(text, stream=out)
        return out.getvalue()

    def drop(self):
        cut(self.raw._usock.fileno())


class Django(Driver):
    """Django's connections, with its own transactions, and a model."""

    name = "Django"
    cannot = {"pipeline": "Django has no pipelines"}
    options: dict[str, bool] = {}

    def connect(self):
        import django
        from django.conf import settings
        from django.db import connections

        words = self.words
        if not settings.configured:
            settings.configure(USE_TZ=True, DATABASES={"default": {
                "ENGINE": "django.db.backends.postgresql", "NAME": words["dbname"], "USER": words["user"],
                "HOST": words["host"], "PORT": words["port"], "OPTIONS": self.options}})
            django.setup()
        self.connection = connections.create_connection("default")
        # The watcher of a running statement asks from another thread.
        self.connection.inc_thread_sharing()
        self.connection.ensure_connection()

    @property
    def raw(self):
        return self.connection.connection

    def close(self):
        self.connection.close()

    def query(self, text: str, *arguments):
        with self.connection.cursor() as cursor:
            cursor.execute(re.sub(r"\$\d+", "%s", text) if arguments else text, arguments or None)
            return cursor.fetchall() if cursor.description else []

    def script(self, text: str):
        self.raw.execute(text, prepare=False)

    def begin(self):
        self.connection.set_autocommit(False)

    def commit(self):
        self.connection.commit()
        self.connection.set_autocommit(True)

    def rollback(self):
        self.connection.rollback()
        self.connection.set_autocommit(True)

    prepare = by_statement
    copy_in, copy_out = SQLAlchemy.copy_in, SQLAlchemy.copy_out
    query_cancelled = SQLAlchemy.query_cancelled

    def executemany(self, text: str, rows):
        with self.connection.cursor() as cursor:
            cursor.executemany(re.sub(r"\$\d+", "%s", text), rows)

    def drop(self):
        cut(self.raw.fileno())

    def orm(self):
        from django.db import IntegrityError, connection, models, transaction

        class Row(models.Model):
            id = models.IntegerField(primary_key=True)
            v = models.TextField(null=True)

            class Meta:
                app_label, db_table = "cases", "t"

        Row.objects.bulk_create([Row(id=number, v=f"row {number}") for number in range(1, 501)], batch_size=100)
        assert Row.objects.get(id=7).v == "row 7"
        with transaction.atomic():
            row = Row.objects.select_for_update().get(id=7)
            row.v = "seven"
            row.save()
            try:
                with transaction.atomic():
                    Row.objects.create(id=1, v="again")
            except IntegrityError:
                pass
            Row.objects.filter(id__gt=400).update(v="many")
        assert Row.objects.filter(v="many").count() == 100
        # By a cursor WITH HOLD.
        assert [row.id for row in Row.objects.order_by("id").iterator(50)] == list(range(1, 501))
        assert Row.objects.filter(id=7).delete()[0] == 1
        assert not Row.objects.filter(id=7).exists()
        connection.close()

    @staticmethod
    def state(error) -> str | None:
        return Psycopg.state(error.__cause__) or Psycopg.state(error)


class DjangoServerSide(Django):
    """Parameters bound by the server."""

    name = "Django, server side"
    options = {"server_side_binding": True}


DRIVERS = {driver.__name__: driver for driver in (
    Psycopg, PsycopgPrepared, PsycopgBinary, PsycopgSimple, Psycopg2, Asyncpg, Pg8000, SQLAlchemy, SQLAlchemyPg8000,
    Django, DjangoServerSide)}
