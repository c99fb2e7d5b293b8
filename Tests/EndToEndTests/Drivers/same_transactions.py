"""Random transactions, statement by statement, through Godwit and on a server directly: every answer must be the same.

argv: conninfo through Godwit, conninfo of a database with the same tables, seed, number of steps.
"""

import random
import sys

import psycopg
from psycopg import pq

through, direct, seed, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dice = random.Random(seed)

READS = [
    "SELECT count(*), sum(n) FROM shelf", "SELECT n FROM shelf WHERE id = {i}", "SELECT {i} + 1",
    "SELECT id, n, note FROM shelf WHERE id < {i} ORDER BY id", "VALUES (1, 'a'), (2, 'b')", "TABLE shelf LIMIT 0",
    "SELECT s.id FROM shelf s JOIN shelf t USING (id) WHERE t.n > {i} ORDER BY 1 LIMIT 3",
    "SELECT now() = now()", "SELECT 1 / ({i} - {i})", "SELECT missing FROM shelf", "SELEC 1",
    "SELECT n FROM shelf WHERE id = {i} FOR UPDATE", "SHOW transaction_isolation", "SHOW transaction_read_only",
]
WRITES = [
    "INSERT INTO shelf VALUES ({i}, {i}, 'new') ON CONFLICT (id) DO UPDATE SET n = shelf.n + 1",
    "UPDATE shelf SET n = n + {i} WHERE id = {i}", "DELETE FROM shelf WHERE id = {i}", "INSERT INTO shelf VALUES ({i}, 0)",
    "WITH gone AS (DELETE FROM shelf WHERE id = {i} RETURNING *) SELECT count(*) FROM gone",
]
CONTROL = [
    "BEGIN", "BEGIN", "BEGIN", "START TRANSACTION", "/* user_id=1 */ START TRANSACTION", "BEGIN READ ONLY",
    "BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", "BEGIN READ WRITE",
    "COMMIT", "COMMIT", "COMMIT", "END", "ROLLBACK", "ROLLBACK", "ABORT", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN",
    "SAVEPOINT a", "ROLLBACK TO a", "RELEASE a", "SET TRANSACTION READ ONLY", "SET TRANSACTION READ WRITE",
    "SET LOCAL work_mem = '5MB'", "SET LOCAL statement_timeout = '1h'", "SHOW work_mem",
    "DECLARE c CURSOR FOR SELECT id FROM shelf ORDER BY id", "FETCH 2 FROM c", "CLOSE c",
    "SELECT 1; SELECT 2", "BEGIN; SELECT 3; COMMIT", "",
]


def statement() -> str:
    kind = dice.random()
    text = dice.choice(READS if kind < 0.45 else WRITES if kind < 0.6 else CONTROL)
    return text.replace("{i}", str(dice.randrange(1, 12)))


def shape(result: pq.PGresult):
    state = result.error_field(pq.DiagnosticField.SQLSTATE)
    rows = [[result.get_value(r, c) for c in range(result.nfields)] for r in range(result.ntuples)]
    names = [result.fname(c) for c in range(result.nfields)]
    return (pq.ExecStatus(result.status).name, result.command_status, state, names, rows)


def ask(connection, step):
    pgconn = connection.pgconn
    kind, text = step
    if kind == "simple":
        result = pgconn.exec_(text.encode())
    elif kind == "parameters":
        result = pgconn.exec_params(text.encode(), [])
    else:
        name = kind.encode()
        result = pgconn.prepare(name, text.encode())
        if result.status == pq.ExecStatus.COMMAND_OK:
            result = pgconn.exec_prepared(name, [])
    return shape(result), pq.TransactionStatus(pgconn.transaction_status).name


def pipeline(connection, texts):
    """All of `texts` in one batch with one Sync: what drivers send when BEGIN waits for its first statement."""
    pgconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    for text in texts:
        pgconn.send_query_params(text.encode(), [])
    pgconn.pipeline_sync()
    shapes = []
    while True:
        result = pgconn.get_result()
        if result is None:
            assert pgconn.status == pq.ConnStatus.OK, pgconn.error_message
            continue
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            break
        shapes.append(shape(result))
    while pgconn.get_result() is not None:
        pass
    pgconn.exit_pipeline_mode()
    return shapes, pq.TransactionStatus(pgconn.transaction_status).name


with psycopg.connect(through, autocommit=True) as ours, psycopg.connect(direct, autocommit=True) as theirs:
    history = []
    for number in range(steps):
        if dice.random() < 0.12:
            texts = [statement() for _ in range(dice.randrange(1, 4))]
            if dice.random() < 0.6:
                texts.insert(0, dice.choice(["BEGIN", "BEGIN READ ONLY", "START TRANSACTION"]))
            texts = [text for text in texts if ";" not in text] or ["SELECT 1"]
            history.append(texts)
            try:
                answers = [pipeline(connection, texts) for connection in (ours, theirs)]
            except AssertionError as error:
                print(f"seed {seed}, step {number}: {texts!r}: {error}", *history[-12:-1], sep="\n  ")
                sys.exit(1)
        else:
            text = statement()
            if dice.random() < 0.1:
                # A text that the grammar refuses is refused in our words where it might end a transaction on NEW.
                more = [text] + [statement() for _ in range(dice.randrange(1, 4))]
                text = "; ".join("SELECT 4" if one.startswith("SELEC ") else one for one in more)
            kinds = ["simple", "simple", "parameters", f"p{number}"]
            step = (dice.choice(kinds if ";" not in text else ["simple"]), text)
            history.append(step)
            answers = [ask(connection, step) for connection in (ours, theirs)]
        if answers[0] != answers[1]:
            print(f"seed {seed}, step {number}: {history[-1]!r}\n ours {answers[0]}\ntheirs {answers[1]}")
            print("before it:", *history[-12:-1], sep="\n  ")
            sys.exit(1)
print(f"{steps} steps\nok")
