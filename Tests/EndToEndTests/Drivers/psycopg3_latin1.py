"""Text of a client whose encoding is LATIN1 from its start, beside one whose encoding is UTF-8.

argv: conninfo.
"""

import sys

import psycopg

TEXT = "caf\u00e9"

for number in range(3):
    with psycopg.connect(sys.argv[1], client_encoding="latin1") as connection:
        assert connection.info.encoding == "iso8859-1", connection.info.encoding
        connection.execute("CREATE TABLE IF NOT EXISTS latin1_texts (id int, v text)")
        connection.execute(f"INSERT INTO latin1_texts VALUES ({number}, '{TEXT}')")
        assert connection.execute("SELECT v, length(v) FROM latin1_texts").fetchall()[number] == (TEXT, len(TEXT))
        assert connection.execute("SELECT %s::text", [TEXT]).fetchone() == (TEXT,)
    with psycopg.connect(sys.argv[1]) as connection:
        assert connection.info.encoding == "utf-8", connection.info.encoding
        assert connection.execute("SELECT DISTINCT v FROM latin1_texts").fetchall() == [(TEXT,)]
with psycopg.connect(sys.argv[1]) as connection:
    connection.execute("DROP TABLE latin1_texts")
print("ok")
