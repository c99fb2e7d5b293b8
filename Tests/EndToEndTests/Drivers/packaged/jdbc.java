// JDBC: the cases of driver_cases.py. Arguments: port, database, user, ports of the servers behind. See run.py.

import java.io.StringReader;
import java.io.StringWriter;
import java.lang.reflect.Field;
import java.sql.*;
import java.util.*;
import java.util.concurrent.Executors;
import org.postgresql.PGConnection;
import org.postgresql.core.QueryExecutorBase;
import org.postgresql.jdbc.PgConnection;

public class jdbc {
    static String port, database, user, mode, options;
    static String[] behind;

    interface Body { void run(Connection c) throws Exception; }

    static Connection open(String port, String options) throws SQLException {
        return DriverManager.getConnection(
            "jdbc:postgresql://127.0.0.1:" + port + "/" + database + "?sslmode=disable&user=" + user + options);
    }

    static Connection another() throws SQLException { return open(port, options); }

    static void check(boolean holds, String what) {
        if (!holds) throw new AssertionError(what);
    }

    static String one(Connection c, String text, Object... arguments) throws SQLException {
        try (PreparedStatement s = c.prepareStatement(text)) {
            for (int i = 0; i < arguments.length; i++) s.setObject(i + 1, arguments[i]);
            try (ResultSet r = s.executeQuery()) { return r.next() ? r.getString(1) : null; }
        }
    }

    static void run(Connection c, String text, Object... arguments) throws SQLException {
        try (PreparedStatement s = c.prepareStatement(text)) {
            for (int i = 0; i < arguments.length; i++) s.setObject(i + 1, arguments[i]);
            s.execute();
        }
    }

    static void fails(String state, java.util.concurrent.Callable<?> action) throws Exception {
        try {
            action.call();
        } catch (SQLException error) {
            check(state.equals(error.getSQLState()), error.getSQLState() + " instead of " + state + ": " + error);
            return;
        }
        throw new AssertionError("no error " + state);
    }

    static boolean isRunning(Connection[] watchers, String mark) throws SQLException {
        for (Connection watcher : watchers) {
            if (!one(watcher, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' "
                + "AND starts_with(query, '" + mark + "')").equals("0")) return true;
        }
        return false;
    }

    static void test(String name, Body body) {
        String outcome = "ok";
        try (Connection c = another()) {
            for (String table : List.of("t", "large", "arrays")) run(c, "DELETE FROM " + table);
            body.run(c);
        } catch (Throwable error) {
            error.printStackTrace();
            outcome = "FAILED\t" + error.toString().replaceAll("\\s+", " ");
        }
        System.out.println(mode + "\t" + name + "\t" + outcome);
    }

    static void all() {
        test("connect", c -> {
            for (int i = 0; i < 20; i++) try (Connection other = another()) { check(one(other, "SELECT 1").equals("1"), "1"); }
        });
        test("simple", c -> {
            try (Statement s = c.createStatement()) {
                s.execute("INSERT INTO t VALUES (1, 'one'); INSERT INTO t VALUES (2, 'ünï☃'); SELECT count(*) FROM t");
                check(s.getUpdateCount() == 1 && !s.getMoreResults() && s.getUpdateCount() == 1, "two counts");
                check(s.getMoreResults(), "a result");
                try (ResultSet r = s.getResultSet()) { check(r.next() && r.getInt(1) == 2, "2"); }
            }
            check(one(c, "SELECT v FROM t WHERE id = 2").equals("ünï☃"), "text");
        });
        test("parameterised", c -> {
            String hostile = "it's \"quoted\" \\ $1 ? ; -- ☃";
            run(c, "INSERT INTO t VALUES (?, ?)", 1, hostile);
            run(c, "INSERT INTO t VALUES (?, ?)", 2, null);
            check(one(c, "SELECT v FROM t WHERE id = ?", 1).equals(hostile), "text");
            check(one(c, "SELECT v FROM t WHERE id = ?", 2) == null, "null");
            for (int i = 0; i < 50; i++) check(one(c, "SELECT ? + 1", i).equals("" + (i + 1)), "sum");
        });
        test("prepared", c -> {
            run(c, "INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 20) g");
            try (Connection other = another(); PreparedStatement mine = c.prepareStatement("SELECT v FROM t WHERE id = ?");
                 PreparedStatement theirs = other.prepareStatement("SELECT id * 2 FROM t WHERE id = ?")) {
                for (int i = 1; i <= 20; i++) {
                    other.setAutoCommit(i % 2 == 0);
                    c.setAutoCommit(i % 3 == 0);
                    mine.setInt(1, i);
                    theirs.setInt(1, i);
                    try (ResultSet r = mine.executeQuery()) { check(r.next() && r.getString(1).equals("v" + i), "v"); }
                    try (ResultSet r = theirs.executeQuery()) { check(r.next() && r.getInt(1) == 2 * i, "2 * id"); }
                    if (!c.getAutoCommit()) c.commit();
                    if (!other.getAutoCommit()) other.rollback();
                }
            }
            c.setAutoCommit(true);
        });
        test("rollback", c -> {
            c.setAutoCommit(false);
            run(c, "INSERT INTO t VALUES (1, 'lost')");
            check(one(c, "SELECT count(*) FROM t").equals("1"), "seen");
            c.rollback();
            check(one(c, "SELECT count(*) FROM t").equals("0"), "undone");
            run(c, "INSERT INTO t VALUES (1, 'stays')");
            c.commit();
            fails("23505", () -> { run(c, "INSERT INTO t VALUES (1, 'again')"); return 0; });
            fails("25P02", () -> one(c, "SELECT 1"));
            c.rollback();
            check(one(c, "SELECT count(*) FROM t").equals("1"), "1");
            c.commit();
        });
        test("savepoints", c -> {
            c.setAutoCommit(false);
            run(c, "INSERT INTO t VALUES (1, 'before')");
            Savepoint point = c.setSavepoint();
            fails("23505", () -> { run(c, "INSERT INTO t VALUES (1, 'again')"); return 0; });
            c.rollback(point);
            run(c, "INSERT INTO t VALUES (2, 'undone')");
            c.rollback(point);
            c.releaseSavepoint(point);
            run(c, "INSERT INTO t VALUES (3, 'after')");
            c.commit();
            check(one(c, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t").equals("1 3"), "1 3");
            c.commit();
        });
        test("copy", c -> {
            StringBuilder lines = new StringBuilder();
            for (int i = 0; i < 10000; i++) lines.append(i).append("\tline ").append(i).append('\n');
            var copy = c.unwrap(PGConnection.class).getCopyAPI();
            check(copy.copyIn("COPY t FROM STDIN", new StringReader(lines.toString())) == 10000, "rows");
            StringWriter out = new StringWriter();
            copy.copyOut("COPY (SELECT * FROM t ORDER BY id) TO STDOUT", out);
            check(out.toString().equals(lines.toString()), "same");
            fails("23505", () -> copy.copyIn("COPY t FROM STDIN", new StringReader("10001\tnew\n1\tdup\n")));
            check(one(c, "SELECT count(*) FROM t").equals("10000"), "count");
        });
        test("large", c -> {
            String text = "x☃".repeat(2_500_000);
            byte[] data = new byte[10_000_000];
            for (int i = 0; i < data.length; i++) data[i] = (byte) (i * 7);
            if (mode.equals("JDBC, simple")) data = null;  // its simple mode writes no bytea
            run(c, "INSERT INTO large VALUES (?, ?, ?)", 1, text, data);
            try (Statement s = c.createStatement(); ResultSet r = s.executeQuery("SELECT body, data FROM large")) {
                check(r.next() && r.getString(1).equals(text) && Arrays.equals(r.getBytes(2), data), "same");
            }
        });
        test("arrays", c -> {
            Integer[] numbers = {1, null, -3, 2_000_000_000};
            String[] texts = {"a", null, "b,\"c\" \\ {d}", "", "☃"};
            run(c, "INSERT INTO arrays VALUES (?, ?, ?)", 1, c.createArrayOf("int4", numbers), c.createArrayOf("text", texts));
            try (PreparedStatement s = c.prepareStatement("SELECT numbers, texts FROM arrays WHERE id = ?")) {
                for (int i = 0; i < 3; i++) {
                    s.setInt(1, 1);
                    try (ResultSet r = s.executeQuery()) {
                        check(r.next() && Arrays.equals((Object[]) r.getArray(1).getArray(), numbers), "numbers");
                        check(Arrays.equals((Object[]) r.getArray(2).getArray(), texts), "texts");
                    }
                }
            }
        });
        test("errors", c -> {
            run(c, "INSERT INTO t VALUES (1, 'one')");
            String[][] wrong = {{"SELEC 1", "42601"}, {"SELECT * FROM nowhere", "42P01"}, {"SELECT 1/0", "22012"},
                {"INSERT INTO t VALUES (1, 'again')", "23505"}};
            for (String[] pair : wrong) {
                for (int i = 0; i < 2; i++) {
                    fails(pair[1], () -> { run(c, pair[0]); return 0; });
                    check(one(c, "SELECT 1").equals("1"), "goes on");
                }
            }
        });
        test("cancel", c -> {
            Connection[] watchers = {open(behind[0], ""), open(behind[1], "")};
            for (int turn = 0; turn < 4; turn++) {
                String mark = "/* jdbc " + turn + " of " + ProcessHandle.current().pid() + " */";
                String text = mark + " SELECT pg_sleep(3600)";
                Statement s = c.createStatement();
                boolean[] ended = {false};
                Thread watch = new Thread(() -> {
                    try {
                        while (!ended[0]) if (isRunning(watchers, mark)) s.cancel();
                    } catch (SQLException error) { error.printStackTrace(); }
                });
                watch.start();
                fails("57014", () -> s.execute(text));
                ended[0] = true;
                watch.join();
                check(one(c, "SELECT 1").equals("1"), "goes on");
            }
            for (Connection watcher : watchers) watcher.close();
        });
        test("pipeline", c -> {
            try (PreparedStatement s = c.prepareStatement("INSERT INTO t VALUES (?, ?)")) {
                for (int i = 0; i < 500; i++) {
                    s.setInt(1, i);
                    s.setString(2, "batch");
                    s.addBatch();
                }
                check(s.executeBatch().length == 500, "500");
                for (int i : new int[] {1000, 1, 1001}) {
                    s.setInt(1, i);
                    s.setString(2, "lost");
                    s.addBatch();
                }
                fails("23505", s::executeBatch);
            }
            check(one(c, "SELECT count(*) FROM t WHERE id < 1000").equals("500"), "500 rows");
        });
        test("set", c -> {
            try (Connection other = another()) {
                run(c, "SET search_path = elsewhere, public");
                run(c, "SET work_mem = '5MB'");
                c.setAutoCommit(false);
                for (int i = 0; i < 5; i++) {
                    check(one(c, "SHOW work_mem").equals("5MB"), "mine");
                    check(!one(other, "SHOW work_mem").equals("5MB"), "not theirs");
                    check(one(c, "SHOW search_path").equals("elsewhere, public"), "search_path");
                    c.commit();
                }
                run(c, "SET work_mem = '6MB'");
                c.rollback();
                check(one(c, "SHOW work_mem").equals("5MB"), "undone");
                c.commit();
            }
        });
        test("disconnect", c -> {
            for (int i = 0; i < 3; i++) {
                Connection lost = another();
                lost.setAutoCommit(false);
                run(lost, "INSERT INTO t VALUES (?, 'lost')", i);
                Field stream = QueryExecutorBase.class.getDeclaredField("pgStream");
                stream.setAccessible(true);
                ((org.postgresql.core.PGStream) stream.get(lost.unwrap(PgConnection.class).getQueryExecutor())).getSocket().close();
                run(c, "INSERT INTO t VALUES (?, 'stays')", i);
            }
            check(one(c, "SELECT string_agg(DISTINCT v, '') FROM t").equals("stays"), "stays");
        });
    }

    public static void main(String[] arguments) {
        port = arguments[0];
        database = arguments[1];
        user = arguments[2];
        behind = new String[] {arguments[3], arguments[4]};
        mode = "JDBC, extended";
        options = "&prepareThreshold=1&binaryTransfer=true";
        all();
        mode = "JDBC, simple";
        options = "&preferQueryMode=simple";
        all();
        System.exit(0);
    }
}
