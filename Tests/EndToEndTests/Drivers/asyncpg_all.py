"""asyncpg: always prepared and binary, cursors, COPY, errors, types it introspects, a pool of its own."""

import asyncio
import sys

import asyncpg

words = dict(word.split("=", 1) for word in sys.argv[1].split())
arguments = {"host": words["host"], "port": int(words["port"]), "database": words["dbname"], "user": words["user"],
             "ssl": "require" if words.get("sslmode") == "require" else False}


async def work(pool, number: int):
    for turn in range(30):
        async with pool.acquire() as connection:
            assert await connection.fetchval("SELECT $1::int + $2::int", number, turn) == number + turn
            async with connection.transaction():
                assert await connection.fetchval(f"SELECT {number} + $1::int", turn) == number + turn


async def main():
    connection = await asyncpg.connect(**arguments)
    await connection.execute("TRUNCATE t")
    await connection.executemany("INSERT INTO t VALUES ($1, $2)", [(n, f"v{n}") for n in range(500)])
    await connection.copy_records_to_table("t", records=[(n, "copied") for n in range(1000, 1500)])
    assert await connection.fetchval("SELECT count(*) FROM t") == 1000
    async with connection.transaction():
        seen = 0
        async for _ in connection.cursor("SELECT * FROM t", prefetch=50):
            seen += 1
        assert seen == 1000
    try:
        await connection.execute("INSERT INTO t VALUES ($1, $2)", 1, "duplicate")
        raise AssertionError("no error")
    except asyncpg.UniqueViolationError:
        pass
    try:
        async with connection.transaction():
            await connection.execute("DELETE FROM t")
            raise ValueError
    except ValueError:
        pass
    assert await connection.fetchval("SELECT count(*) FROM t") == 1000
    statement = await connection.prepare("SELECT v FROM t WHERE id = $1")
    for number in range(0, 500, 50):
        assert await statement.fetchval(number) == f"v{number}"
    assert await connection.fetchval("SELECT ARRAY[1, 2, 3]::numeric[]") == [1, 2, 3]
    try:
        await connection.execute("SELECT pg_sleep(3600)", timeout=0.2)
        raise AssertionError("not cancelled")
    except asyncio.TimeoutError:
        pass
    assert await connection.fetchval("SELECT 1") == 1
    await connection.execute("TRUNCATE t")
    await connection.close()

    async with asyncpg.create_pool(min_size=6, max_size=6, **arguments) as pool:
        await asyncio.gather(*(work(pool, number) for number in range(12)))
    print("ok")


asyncio.run(main())
