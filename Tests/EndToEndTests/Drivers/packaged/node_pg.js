// Node's pg: the cases of driver_cases.py. Arguments: port, database, user, ports of the servers behind. See run.py.

const { Client } = require("pg");

const [port, database, user, ...behind] = process.argv.slice(2);

async function openAt(port) {
  const client = new Client({ host: "127.0.0.1", port: Number(port), database, user, ssl: false });
  client.on("error", () => {}); // of a connection that the case itself has cut
  await client.connect();
  return client;
}
const another = () => openAt(port);

function check(holds, what = "a check") {
  if (!holds) throw new Error(`${what} does not hold`);
}

async function fails(state, action) {
  try {
    await action();
  } catch (error) {
    check(error.code === state, `${error.code} instead of ${state} (${error.message})`);
    return;
  }
  throw new Error(`no error ${state}`);
}

const one = async (c, text, values) => Object.values((await c.query(text, values)).rows[0])[0];

// What pg-copy-streams does, which Debian does not have: a query that handles the copy messages itself.
class Copy {
  constructor(text, lines) {
    Object.assign(this, { text, lines, read: [] });
    this.done = new Promise((resolve, reject) => Object.assign(this, { resolve, reject }));
    this.callback = () => {};
  }
  submit(connection) { connection.query(this.text); }
  handleCopyInResponse(connection) {
    for (const line of this.lines) connection.sendCopyFromChunk(Buffer.from(line));
    connection.endCopyFrom();
  }
  handleCopyData(message) { this.read.push(message.chunk.toString()); }
  handleCommandComplete() {}
  handleRowDescription() {}
  handleError(error) { this.reject(error); }
  handleReadyForQuery() { this.resolve(this.read); }
}

const copy = (c, text, lines = []) => c.query(new Copy(text, lines)).done;

const cases = {
  async connect(c) {
    for (let n = 0; n < 20; n++) {
      const other = await another();
      check((await one(other, "SELECT 1")) === 1);
      await other.end();
    }
  },
  async simple(c) {
    const results = await c.query(
      "INSERT INTO t VALUES (1, 'one'); INSERT INTO t VALUES (2, 'ü☃'); SELECT count(*) FROM t");
    check(results[2].rows[0].count === "2");
    check((await c.query("SELECT v FROM t ORDER BY id")).rows.map((row) => row.v).join() === "one,ü☃");
  },
  async parameterised(c) {
    const hostile = "it's \"quoted\" \\ $1 ; -- ☃";
    await c.query("INSERT INTO t VALUES ($1, $2), ($3, $4)", [1, hostile, 2, null]);
    check((await one(c, "SELECT v FROM t WHERE id = $1", [1])) === hostile);
    check((await one(c, "SELECT v FROM t WHERE id = $1", [2])) === null);
    for (let n = 0; n < 50; n++) check((await one(c, "SELECT $1::int + 1", [n])) === n + 1);
  },
  async prepared(c) {
    await c.query("INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 20) g");
    const other = await another();
    const own = (n) => c.query({ name: "shelf_row", text: "SELECT v FROM t WHERE id = $1", values: [n] });
    const others = (n) => other.query({ name: "shelf_row", text: "SELECT id * 2 AS v FROM t WHERE id = $1", values: [n] });
    for (let n = 1; n <= 20; n++) {
      await c.query("BEGIN");
      check((await own(n)).rows[0].v === `v${n}`);
      check((await others(n)).rows[0].v === 2 * n);
      await c.query("COMMIT");
      check((await own(n)).rows[0].v === `v${n}`);
    }
    await other.end();
  },
  async rollback(c) {
    await c.query("BEGIN");
    await c.query("INSERT INTO t VALUES (1, 'lost')");
    await c.query("ROLLBACK");
    check((await one(c, "SELECT count(*) FROM t")) === "0");
    await c.query("BEGIN");
    await c.query("INSERT INTO t VALUES (1, 'stays')");
    await c.query("COMMIT");
    await c.query("BEGIN");
    await fails("23505", () => c.query("INSERT INTO t VALUES (1, 'again')"));
    await fails("25P02", () => c.query("SELECT 1"));
    await c.query("ROLLBACK");
    check((await one(c, "SELECT v FROM t")) === "stays");
  },
  async savepoints(c) {
    await c.query("BEGIN");
    await c.query("INSERT INTO t VALUES (1, 'before')");
    await c.query("SAVEPOINT a");
    await fails("23505", () => c.query("INSERT INTO t VALUES ($1, 'again')", [1]));
    await c.query("ROLLBACK TO a");
    await c.query("INSERT INTO t VALUES (2, 'undone')");
    await c.query("ROLLBACK TO a");
    await c.query("RELEASE a");
    await c.query("INSERT INTO t VALUES (3, 'after')");
    await c.query("COMMIT");
    check((await c.query("SELECT id FROM t ORDER BY id")).rows.map((row) => row.id).join() === "1,3");
  },
  async copy(c) {
    const lines = Array.from({ length: 10_000 }, (_, n) => `${n}\tline ${n}\n`);
    await copy(c, "COPY t FROM STDIN", lines);
    const read = await copy(c, "COPY (SELECT * FROM t ORDER BY id) TO STDOUT");
    check(read.join("") === lines.join(""));
    await fails("23505", () => copy(c, "COPY t FROM STDIN", ["1\tduplicate\n"]));
    check((await one(c, "SELECT count(*) FROM t")) === "10000");
  },
  async large(c) {
    const text = "x☃".repeat(2_500_000);
    const data = Buffer.alloc(10_000_000, Buffer.from(Array.from({ length: 250 }, (_, n) => n)));
    await c.query("INSERT INTO large VALUES (1, $1, $2)", [text, data]);
    const row = (await c.query({ text: "SELECT body, data FROM large", binary: true })).rows[0];
    check(row.body.toString() === text && data.equals(row.data));
  },
  async arrays(c) {
    await c.query("INSERT INTO arrays VALUES (1, $1, $2)", [[1, null, -3], ["a", null, 'b,"c" \\ {}']]);
    const row = (await c.query("SELECT numbers, texts FROM arrays")).rows[0];
    check(JSON.stringify(row) === JSON.stringify({ numbers: [1, null, -3], texts: ["a", null, 'b,"c" \\ {}'] }));
    const binary = (await c.query({ text: "SELECT numbers FROM arrays", values: [], binary: true })).rows[0];
    check(JSON.stringify(binary.numbers) === "[1,null,-3]", JSON.stringify(binary.numbers));
  },
  async errors(c) {
    await c.query("INSERT INTO t VALUES (1, 'one')");
    const states = { "SELEC 1": "42601", "SELECT * FROM nowhere": "42P01", "SELECT 1/0": "22012",
      "INSERT INTO t VALUES (1, 'again')": "23505" };
    for (const [text, state] of Object.entries(states)) {
      await fails(state, () => c.query(text));
      await fails(state, () => c.query({ text, queryMode: "extended", values: [] }));
      await fails(state, () => c.query({ name: `fails ${state}`, text, values: [] }));
      check((await one(c, "SELECT 1")) === 1);
    }
  },
  async cancel(c) {
    const watchers = await Promise.all(behind.map(openAt));
    for (const [turn, work] of ["pg_sleep(3600)",
      "count(*) FROM (SELECT generate_series(1, 1000000000000)) s"].entries()) {
      const mark = `/* node ${turn} of ${process.pid} */`;
      let isOver = false;
      const query = c.query(`${mark} SELECT ${work}`).catch((error) => error).finally(() => { isOver = true; });
      while (!isOver) {
        const seen = await Promise.all(watchers.map((watcher) => one(watcher,
          "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND starts_with(query, $1)", [mark])));
        if (seen.every((count) => count === "0")) continue;
        const canceller = new Client({ host: "127.0.0.1", port: Number(port), database, user });
        canceller.on("error", () => {});
        await new Promise((resolve) => {
          canceller.connection.once("connect", () => canceller.connection.cancel(c.processID, c.secretKey));
          canceller.connection.once("end", resolve);
          canceller.connection.on("error", resolve);
          canceller.connection.connect(Number(port), "127.0.0.1");
        });
      }
      check((await query).code === "57014");
      check((await one(c, "SELECT 1")) === 1);
    }
    for (const watcher of watchers) await watcher.end();
  },
  async set(c) {
    const other = await another();
    await c.query("SET work_mem = '5MB'");
    for (let n = 0; n < 5; n++) {
      check((await one(c, "SHOW work_mem")) === "5MB");
      check((await one(other, "SHOW work_mem")) !== "5MB");
    }
    await c.query("BEGIN; SET work_mem = '6MB'; ROLLBACK");
    check((await one(c, "SHOW work_mem")) === "5MB");
    await other.end();
  },
  async disconnect(c) {
    for (let n = 0; n < 3; n++) {
      const lost = await another();
      await lost.query("BEGIN");
      await lost.query("INSERT INTO t VALUES ($1, 'lost')", [n]);
      lost.connection.stream.destroy();
      await c.query("INSERT INTO t VALUES ($1, 'stays')", [n]);
    }
    check((await c.query("SELECT DISTINCT v FROM t")).rows.map((row) => row.v).join() === "stays");
  },
};

async function main() {
  for (const [name, body] of Object.entries(cases)) {
    try {
      const c = await another();
      for (const table of ["t", "large", "arrays"]) await c.query(`DELETE FROM ${table}`);
      await body(c);
      await c.end();
      console.log(`Node pg\t${name}\tok`);
    } catch (error) {
      console.error(error);
      console.log(`Node pg\t${name}\tFAILED\t${error.message.replace(/\s+/g, " ")}`);
    }
  }
  console.log("Node pg\tpipeline\tnot applicable\tit has none: a query waits for the one before");
  process.exit(0);
}

main();
