<?php
// PHP: pdo_pgsql and pgsql (libpq). The cases of driver_cases.py. Arguments: port, database, user, ports of the servers
// behind. See run.py.

[, $port, $database, $user] = $argv;
$behind = array_slice($argv, 4);

function check($holds, string $what = "a check") { if (!$holds) throw new Exception("$what does not hold"); }

function pdo(bool $emulates, $port = null): PDO
{
    global $database, $user;
    $port ??= $GLOBALS["port"];
    return new PDO("pgsql:host=127.0.0.1;port=$port;dbname=$database;sslmode=disable", $user, null, [
        PDO::ATTR_ERRMODE => PDO::ERRMODE_EXCEPTION, PDO::ATTR_EMULATE_PREPARES => $emulates]);
}

function pg()
{
    global $port, $database, $user;
    return pg_connect("host=127.0.0.1 port=$port dbname=$database user=$user sslmode=disable", PGSQL_CONNECT_FORCE_NEW);
}

function fails(string $state, callable $action)
{
    try {
        $action();
    } catch (PDOException $error) {
        check($error->errorInfo[0] === $state, "{$error->errorInfo[0]} instead of $state: {$error->getMessage()}");
        return;
    }
    throw new Exception("no error $state");
}

function one(PDO $c, string $text, array $arguments = [])
{
    $statement = $c->prepare($text);
    $statement->execute($arguments);
    return $statement->columnCount() ? $statement->fetchColumn() : null;
}

$cases = [
    "connect" => function (PDO $c, callable $another) {
        for ($n = 0; $n < 20; $n++) check(one($another(), "SELECT 1") == 1);
    },
    "simple" => function (PDO $c) {
        $c->exec("INSERT INTO t VALUES (1, 'one'); INSERT INTO t VALUES (2, 'ünï☃')");
        check($c->query("SELECT v FROM t ORDER BY id")->fetchAll(PDO::FETCH_COLUMN) === ["one", "ünï☃"]);
    },
    "parameterised" => function (PDO $c) {
        $hostile = "it's \"quoted\" \\ \$1 ; -- ☃";
        one($c, "INSERT INTO t VALUES (?, ?)", [1, $hostile]);
        one($c, "INSERT INTO t VALUES (?, ?)", [2, null]);
        check(one($c, "SELECT v FROM t WHERE id = ?", [1]) === $hostile);
        check(one($c, "SELECT v FROM t WHERE id = ?", [2]) === null);
        for ($n = 0; $n < 50; $n++) check(one($c, "SELECT CAST(? AS int) + 1", [$n]) == $n + 1);
    },
    "prepared" => function (PDO $c, callable $another) {
        $c->exec("INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 20) g");
        $other = $another();
        $mine = $c->prepare("SELECT v FROM t WHERE id = ?");
        $theirs = $other->prepare("SELECT id * 2 FROM t WHERE id = ?");
        for ($n = 1; $n <= 20; $n++) {
            $c->beginTransaction();
            $mine->execute([$n]);
            $theirs->execute([$n]);
            check($mine->fetchColumn() === "v$n" && $theirs->fetchColumn() == 2 * $n);
            $n % 2 ? $c->commit() : $c->rollBack();
            $mine->execute([$n]);
            check($mine->fetchColumn() === "v$n");
        }
    },
    "rollback" => function (PDO $c) {
        $c->beginTransaction();
        $c->exec("INSERT INTO t VALUES (1, 'lost')");
        check(one($c, "SELECT count(*) FROM t") == 1);
        $c->rollBack();
        check(one($c, "SELECT count(*) FROM t") == 0);
        $c->beginTransaction();
        $c->exec("INSERT INTO t VALUES (1, 'stays')");
        $c->commit();
        $c->beginTransaction();
        fails("23505", fn() => $c->exec("INSERT INTO t VALUES (1, 'again')"));
        fails("25P02", fn() => $c->query("SELECT 1"));
        $c->rollBack();
        check(one($c, "SELECT v FROM t") === "stays");
    },
    "savepoints" => function (PDO $c) {
        $c->beginTransaction();
        $c->exec("INSERT INTO t VALUES (1, 'before')");
        $c->exec("SAVEPOINT a");
        fails("23505", fn() => one($c, "INSERT INTO t VALUES (?, 'again')", [1]));
        $c->exec("ROLLBACK TO a");
        $c->exec("INSERT INTO t VALUES (2, 'undone')");
        $c->exec("ROLLBACK TO a");
        $c->exec("INSERT INTO t VALUES (3, 'after')");
        $c->commit();
        check($c->query("SELECT id FROM t ORDER BY id")->fetchAll(PDO::FETCH_COLUMN) == [1, 3]);
    },
    "copy" => function (PDO $c) {
        $lines = array_map(fn($n) => "$n\tline $n\n", range(0, 9999));
        check($c->pgsqlCopyFromArray("t", $lines));
        $read = $c->pgsqlCopyToArray("t");
        sort($read);
        sort($lines);
        check($read === $lines);
        fails("23505", fn() => $c->pgsqlCopyFromArray("t", ["10001\tnew\n", "1\tduplicate\n"]));
        check(one($c, "SELECT count(*) FROM t") == 10000);
    },
    "large" => function (PDO $c) {
        $text = str_repeat("x☃", 2_500_000);
        $data = str_repeat(implode(array_map("chr", range(0, 249))), 40_000);
        $statement = $c->prepare("INSERT INTO large VALUES (1, ?, ?)");
        $statement->bindValue(1, $text);
        $statement->bindValue(2, $data, PDO::PARAM_LOB);
        $statement->execute();
        [$body, $bytes] = $c->query("SELECT body, data FROM large")->fetch(PDO::FETCH_NUM);
        check($body === $text && stream_get_contents($bytes) === $data);
    },
    "arrays" => function (PDO $c) {
        [$numbers, $texts] = ["{1,NULL,-3}", '{a,NULL,"b,\"c\""}'];
        one($c, "INSERT INTO arrays VALUES (1, ?, ?)", [$numbers, $texts]);
        check($c->query("SELECT numbers, texts FROM arrays")->fetch(PDO::FETCH_NUM) === [$numbers, $texts]);
    },
    "errors" => function (PDO $c) {
        $c->exec("INSERT INTO t VALUES (1, 'one')");
        $wrong = ["SELEC 1" => "42601", "SELECT * FROM nowhere" => "42P01", "SELECT 1/0" => "22012",
            "INSERT INTO t VALUES (1, 'again')" => "23505"];
        foreach ($wrong as $text => $state) {
            fails($state, fn() => $c->exec($text));
            fails($state, fn() => one($c, $text));
            check(one($c, "SELECT 1") == 1);
        }
    },
    "set" => function (PDO $c, callable $another) {
        $other = $another();
        $c->exec("SET work_mem = '5MB'");
        for ($n = 0; $n < 5; $n++) {
            check(one($c, "SHOW work_mem") === "5MB" && one($other, "SHOW work_mem") !== "5MB");
        }
        $c->exec("BEGIN; SET work_mem = '6MB'; ROLLBACK");
        check(one($c, "SHOW work_mem") === "5MB");
    },
];

function report(string $mode, string $name, callable $body)
{
    try {
        $outcome = $body() ?? "ok";
    } catch (Throwable $error) {
        fwrite(STDERR, "$error\n");
        $outcome = "FAILED\t" . preg_replace('/\s+/', " ", $error->getMessage());
    }
    echo "$mode\t$name\t$outcome\n";
}

foreach (["PDO" => false, "PDO, emulated" => true] as $mode => $emulates) {
    foreach ($cases as $name => $body) {
        report($mode, $name, function () use ($body, $emulates) {
            $another = fn() => pdo($emulates);
            $c = $another();
            foreach (["t", "large", "arrays"] as $table) $c->exec("DELETE FROM $table");
            $body($c, $another);
        });
    }
    report($mode, "cancel", fn() => "not applicable\tPDO cannot cancel; the row PHP pgsql does");
    report($mode, "pipeline", fn() => "not applicable\tPDO has no pipelines");
    report($mode, "disconnect", fn() => "not applicable\tPDO has no socket to cut; the row PHP pgsql kills its process");
}

// The extension pgsql: what PDO cannot, and prepared statements by name.
report("PHP pgsql", "prepared", function () {
    $c = pg();
    $other = pg();
    pg_prepare($c, "shelf_row", 'SELECT $1::int + 1');
    pg_prepare($other, "shelf_row", 'SELECT $1::int * 2');
    for ($n = 0; $n < 20; $n++) {
        pg_query($c, "BEGIN");
        check(pg_fetch_result(pg_execute($c, "shelf_row", [$n]), 0, 0) == $n + 1);
        check(pg_fetch_result(pg_execute($other, "shelf_row", [$n]), 0, 0) == $n * 2);
        pg_query($c, "COMMIT");
    }
});
report("PHP pgsql", "cancel", function () use ($behind) {
    $c = pg();
    $watchers = array_map(fn($port) => pdo(true, $port), $behind);
    for ($turn = 0; $turn < 3; $turn++) {
        $mark = "/* php $turn of " . getmypid() . " */";
        pg_send_query($c, "$mark SELECT pg_sleep(3600)");
        $seen = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND starts_with(query, '$mark')";
        while (array_sum(array_map(fn($watcher) => one($watcher, $seen), $watchers)) == 0);
        check(pg_cancel_query($c), "the request");
        check(pg_fetch_result(pg_query($c, "SELECT 1"), 0, 0) == 1);
        check(array_sum(array_map(fn($watcher) => one($watcher, $seen), $watchers)) == 0, "its end");
    }
});
report("PHP pgsql", "disconnect", function () use ($port, $database, $user) {
    $c = pg();
    pg_query($c, "DELETE FROM t");
    $lost = 'pg_query(pg_connect($argv[1]), "BEGIN; INSERT INTO t VALUES ($argv[2], \'lost\')"); echo "in"; fgets(STDIN);';
    for ($n = 0; $n < 3; $n++) {
        $conninfo = "host=127.0.0.1 port=$port dbname=$database user=$user sslmode=disable";
        $process = proc_open([PHP_BINARY, "-r", $lost, "--", $conninfo, (string) $n], [0 => ["pipe", "r"], 1 => ["pipe", "w"]], $pipes);
        check(fread($pipes[1], 2) === "in", "its insert");
        proc_terminate($process, 9);
        check(pg_query_params($c, 'INSERT INTO t VALUES ($1, \'stays\')', [$n]) !== false);
        proc_close($process);
    }
    check(pg_fetch_all_columns(pg_query($c, "SELECT DISTINCT v FROM t")) === ["stays"]);
});
