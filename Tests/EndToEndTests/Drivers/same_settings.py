"""Random settings, savepoints and transactions of two sessions: what each session has set is the same as on a server
directly, though through Godwit both share one server.

argv: conninfo through Godwit, conninfo of a database directly, seed, number of steps.
"""

import random
import sys

import psycopg
from psycopg import pq

through, direct, seed, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
dice = random.Random(seed)
NAMES = ["work_mem", "statement_timeout", "search_path", "application_name", "my.own", "DateStyle"]
VALUES = {
    "work_mem": ["'64kB'", "'1MB'"], "statement_timeout": ["'1h'", "'2h'"], "search_path": ["a, b", "public"],
    "application_name": ["'one'", "'it''s'"], "my.own": ["'x'", "'y'"], "DateStyle": ["'German'", "'ISO, DMY'"],
}


def setting() -> str:
    name = dice.choice(NAMES)
    value = dice.choice(VALUES[name])
    form = dice.randrange(10)
    if form < 5:
        return f"SET {name} = {value}"
    if form == 5:
        return f"SET LOCAL {name} = {value}"
    if form == 6:
        return f"RESET {name}"
    if form == 7:
        return f"SET {name} TO DEFAULT"
    if form == 8 and dice.random() < 0.3:
        return "RESET ALL"
    quoted = "'" + value.replace("'", "''") + "'" if not value.startswith("'") else value
    return f"SELECT set_config('{name}', {quoted}, {dice.choice(['true', 'false'])})"


def statement() -> str:
    kind = dice.random()
    if kind < 0.45:
        return setting()
    return dice.choice([
        "BEGIN", "BEGIN", "COMMIT", "ROLLBACK", "ROLLBACK AND CHAIN", "COMMIT AND CHAIN", "SAVEPOINT a", "SAVEPOINT b",
        "ROLLBACK TO a", "ROLLBACK TO b", "RELEASE a", "SELECT 1/0", "SELECT 1", "SET work_mem = 'much'",
        "SET nothing_like_it = 1", "DISCARD ALL" if dice.random() < 0.2 else "SELECT 2",
    ])


def simple(connection, texts):
    result = connection.pgconn.exec_("; ".join(texts).encode())
    return result.error_field(pq.DiagnosticField.SQLSTATE), result.command_status


def single(connection, texts):
    return [simple(connection, [text]) for text in texts]


def prepared(connection, texts):
    answers = []
    for text in texts:
        result = connection.pgconn.exec_params(text.encode(), [])
        answers.append((result.error_field(pq.DiagnosticField.SQLSTATE), result.command_status))
    return answers


def pipeline(connection, texts, syncs):
    pgconn = connection.pgconn
    pgconn.enter_pipeline_mode()
    for text, sync in zip(texts, syncs):
        pgconn.send_query_params(text.encode(), [])
        if sync:
            pgconn.pipeline_sync()
    pgconn.pipeline_sync()
    answers, awaited = [], sum(syncs) + 1
    while awaited:
        result = pgconn.get_result()
        if result is None:
            assert pgconn.status == pq.ConnStatus.OK, pgconn.error_message
            continue
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            awaited -= 1
            continue
        answers.append((result.error_field(pq.DiagnosticField.SQLSTATE), result.command_status))
    pgconn.exit_pipeline_mode()
    return answers


def state(connection):
    status = pq.TransactionStatus(connection.pgconn.transaction_status).name
    if status == "INERROR":
        return status
    names = ", ".join(f"current_setting('{name}', true)" for name in NAMES)
    result = connection.pgconn.exec_(f"SELECT {names}".encode())
    assert result.status == pq.ExecStatus.TUPLES_OK, result.error_message
    values = [result.get_value(0, column) for column in range(len(NAMES))]
    values[4] = values[4] or None  # once set, a custom setting is empty and never again unknown
    reported = [connection.pgconn.parameter_status(name) for name in (b"DateStyle", b"application_name")]
    return status, values, reported


def idle(connection) -> bool:
    return connection.pgconn.transaction_status == pq.TransactionStatus.IDLE


pairs = [
    tuple(psycopg.connect(target, autocommit=True, application_name=f"app{n}") for target in (through, direct))
    for n in range(2)
]
history = []
active = 0
for number in range(steps):
    # One server for both: the other has its turn when this one is between transactions.
    if idle(pairs[active][0]):
        active = dice.randrange(2)
    pair = pairs[active]
    texts = [statement() for _ in range(dice.randrange(1, 5))]
    form = dice.choice(["single", "simple", "prepared", "pipeline", "syncs"])
    if form != "single":
        texts = [text for text in texts if text != "DISCARD ALL"] or ["SELECT 3"]
    syncs = [form == "syncs" and dice.random() < 0.5 for _ in texts]
    history.append((active, form, texts, syncs))
    run = {"single": single, "simple": simple, "prepared": prepared}.get(
        form, lambda connection, texts: pipeline(connection, texts, syncs))
    ours, theirs = [(run(connection, texts), state(connection)) for connection in pair]
    if ours != theirs:
        print(f"seed {seed}, step {number}\n  ours {ours}\ntheirs {theirs}", *history[-12:], sep="\n  ")
        sys.exit(1)
print(f"{steps} steps\nok")
