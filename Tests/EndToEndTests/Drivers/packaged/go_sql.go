// Go: lib/pq and pgx by database/sql. The cases of driver_cases.py. Arguments: port, database, user, ports of the servers
// behind. See run.py.

package main

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgconn"
	"github.com/jackc/pgx/v4"
	"github.com/jackc/pgx/v4/stdlib"
	"github.com/lib/pq"
)

var port, database, user = os.Args[1], os.Args[2], os.Args[3]
var ctx = context.Background()

func words(port string) string {
	return fmt.Sprintf("host=127.0.0.1 port=%s dbname=%s user=%s sslmode=disable", port, database, user)
}

// A driver's way to open a pool of one connection, over a socket that the test may cut.
type opener func(port string, socket *net.Conn) *sql.DB

func check(holds bool, what string) {
	if !holds {
		panic(what + " does not hold")
	}
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}

func state(err error) string {
	var a *pq.Error
	var b *pgconn.PgError
	if errors.As(err, &a) {
		return string(a.Code)
	}
	if errors.As(err, &b) {
		return b.Code
	}
	return fmt.Sprint(err)
}

func fails(wanted string, err error) { check(state(err) == wanted, state(err)+" instead of "+wanted) }

type querier interface {
	QueryRowContext(context.Context, string, ...interface{}) *sql.Row
	ExecContext(context.Context, string, ...interface{}) (sql.Result, error)
}

func one(c querier, text string, arguments ...interface{}) string {
	var value sql.NullString
	must(c.QueryRowContext(ctx, text, arguments...).Scan(&value))
	return value.String
}

func run(c querier, text string, arguments ...interface{}) {
	_, err := c.ExecContext(ctx, text, arguments...)
	must(err)
}

func try(c querier, text string, arguments ...interface{}) error {
	_, err := c.ExecContext(ctx, text, arguments...)
	return err
}

type scene struct {
	c      *sql.Conn
	open   opener
	isPgx  bool
	copies bool
}

func (s scene) another() *sql.DB { return s.open(port, nil) }

var cases = []struct {
	name string
	body func(s scene)
}{
	{"connect", func(s scene) {
		for n := 0; n < 20; n++ {
			other := s.another()
			check(one(other, "SELECT 1") == "1", "1")
			other.Close()
		}
	}},
	{"simple", func(s scene) {
		run(s.c, "INSERT INTO t VALUES (1, 'one'), (2, 'ünï☃')")
		check(one(s.c, "SELECT string_agg(v, ' ' ORDER BY id) FROM t") == "one ünï☃", "text")
	}},
	{"parameterised", func(s scene) {
		hostile := "it's \"quoted\" \\ $1 ; -- ☃"
		run(s.c, "INSERT INTO t VALUES ($1, $2), ($3, $4)", 1, hostile, 2, nil)
		check(one(s.c, "SELECT v FROM t WHERE id = $1", 1) == hostile, "text")
		check(one(s.c, "SELECT v FROM t WHERE id = $1", 2) == "", "null")
		for n := 0; n < 50; n++ {
			check(one(s.c, "SELECT CAST($1 AS int) + 1", n) == fmt.Sprint(n+1), "sum")
		}
	}},
	{"prepared", func(s scene) {
		run(s.c, "INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 20) g")
		other := s.another()
		defer other.Close()
		mine, err := s.c.PrepareContext(ctx, "SELECT v FROM t WHERE id = $1")
		must(err)
		theirs, err := other.PrepareContext(ctx, "SELECT id * 2 FROM t WHERE id = $1")
		must(err)
		for n := 1; n <= 20; n++ {
			transaction, err := s.c.BeginTx(ctx, nil)
			must(err)
			var text string
			var number int
			must(transaction.Stmt(mine).QueryRow(n).Scan(&text))
			must(theirs.QueryRow(n).Scan(&number))
			check(text == fmt.Sprint("v", n) && number == 2*n, "both")
			must(transaction.Commit())
			must(mine.QueryRow(n).Scan(&text))
		}
	}},
	{"rollback", func(s scene) {
		transaction, err := s.c.BeginTx(ctx, nil)
		must(err)
		run(transaction, "INSERT INTO t VALUES (1, 'lost')")
		check(one(transaction, "SELECT count(*) FROM t") == "1", "seen")
		must(transaction.Rollback())
		check(one(s.c, "SELECT count(*) FROM t") == "0", "undone")
		transaction, err = s.c.BeginTx(ctx, nil)
		must(err)
		run(transaction, "INSERT INTO t VALUES (1, 'stays')")
		must(transaction.Commit())
		transaction, err = s.c.BeginTx(ctx, nil)
		must(err)
		fails("23505", try(transaction, "INSERT INTO t VALUES (1, 'again')"))
		fails("25P02", try(transaction, "SELECT 1"))
		must(transaction.Rollback())
		check(one(s.c, "SELECT v FROM t") == "stays", "stays")
	}},
	{"savepoints", func(s scene) {
		transaction, err := s.c.BeginTx(ctx, nil)
		must(err)
		run(transaction, "INSERT INTO t VALUES (1, 'before')")
		run(transaction, "SAVEPOINT a")
		fails("23505", try(transaction, "INSERT INTO t VALUES ($1, 'again')", 1))
		run(transaction, "ROLLBACK TO a")
		run(transaction, "INSERT INTO t VALUES (2, 'undone')")
		run(transaction, "ROLLBACK TO a")
		run(transaction, "INSERT INTO t VALUES (3, 'after')")
		must(transaction.Commit())
		check(one(s.c, "SELECT string_agg(id::text, ' ' ORDER BY id) FROM t") == "1 3", "1 3")
	}},
	{"copy", func(s scene) {
		if s.isPgx {
			must(s.c.Raw(func(raw interface{}) error {
				rows := [][]interface{}{}
				for n := 0; n < 10000; n++ {
					rows = append(rows, []interface{}{n, fmt.Sprint("line ", n)})
				}
				connection := raw.(*stdlib.Conn).Conn()
				count, err := connection.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"id", "v"}, pgx.CopyFromRows(rows))
				check(err != nil || count == 10000, "rows")
				if err != nil {
					return err
				}
				_, err = connection.CopyFrom(ctx, pgx.Identifier{"t"}, []string{"id", "v"}, pgx.CopyFromRows(rows))
				fails("23505", err)
				var out strings.Builder
				_, err = connection.PgConn().CopyTo(ctx, &out, "COPY t TO STDOUT")
				check(strings.Count(out.String(), "\n") == 10000, "lines")
				return err
			}))
		} else {
			transaction, err := s.c.BeginTx(ctx, nil)
			must(err)
			copying, err := transaction.Prepare(pq.CopyIn("t", "id", "v"))
			must(err)
			for n := 0; n < 10000; n++ {
				_, err = copying.Exec(n, fmt.Sprint("line ", n))
				must(err)
			}
			_, err = copying.Exec()
			must(err)
			must(copying.Close())
			must(transaction.Commit())
		}
		check(one(s.c, "SELECT count(*) FROM t") == "10000", "count")
	}},
	{"large", func(s scene) {
		text := strings.Repeat("x☃", 2_500_000)
		data := make([]byte, 10_000_000)
		for n := range data {
			data[n] = byte(n * 7)
		}
		run(s.c, "INSERT INTO large VALUES ($1, $2, $3)", 1, text, data)
		var body string
		var read []byte
		must(s.c.QueryRowContext(ctx, "SELECT body, data FROM large WHERE id = $1", 1).Scan(&body, &read))
		check(body == text && string(read) == string(data), "same")
	}},
	{"arrays", func(s scene) {
		texts := []string{"a", "b,\"c\" \\ {d}", "", "☃"}
		if s.isPgx {
			must(s.c.Raw(func(raw interface{}) error {
				connection := raw.(*stdlib.Conn).Conn()
				_, err := connection.Exec(ctx, "INSERT INTO arrays VALUES ($1, $2, $3)", 1, []int32{1, -3, 2_000_000_000}, texts)
				if err != nil {
					return err
				}
				var numbers []int32
				var read []string
				err = connection.QueryRow(ctx, "SELECT numbers, texts FROM arrays").Scan(&numbers, &read)
				check(fmt.Sprint(numbers) == "[1 -3 2000000000]" && fmt.Sprintf("%q", read) == fmt.Sprintf("%q", texts), "same")
				return err
			}))
			return
		}
		run(s.c, "INSERT INTO arrays VALUES ($1, $2, $3)", 1, pq.Array([]int64{1, -3, 2_000_000_000}), pq.Array(texts))
		var numbers []int64
		var read []string
		must(s.c.QueryRowContext(ctx, "SELECT numbers, texts FROM arrays").Scan(pq.Array(&numbers), pq.Array(&read)))
		check(fmt.Sprint(numbers) == "[1 -3 2000000000]" && fmt.Sprintf("%q", read) == fmt.Sprintf("%q", texts), "same")
	}},
	{"errors", func(s scene) {
		run(s.c, "INSERT INTO t VALUES (1, 'one')")
		for text, wanted := range map[string]string{"SELEC 1": "42601", "SELECT * FROM nowhere": "42P01",
			"SELECT 1/0": "22012", "INSERT INTO t VALUES (1, 'again')": "23505"} {
			for n := 0; n < 2; n++ {
				fails(wanted, try(s.c, text))
				check(one(s.c, "SELECT 1") == "1", "goes on")
			}
		}
	}},
	{"cancel", func(s scene) {
		for turn := 0; turn < 3; turn++ {
			mark := fmt.Sprintf("/* go %d of %d */", turn, os.Getpid())
			seen := "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND starts_with(query, '" + mark + "')"
			watchers := []*sql.DB{s.open(os.Args[4], nil), s.open(os.Args[5], nil)}
			running := func() bool { return one(watchers[0], seen) != "0" || one(watchers[1], seen) != "0" }
			limited, cancel := context.WithCancel(ctx)
			go func() {
				for !running() {
				}
				cancel()
			}()
			other := s.another()
			_, err := other.ExecContext(limited, mark+" SELECT pg_sleep(3600)")
			check(err != nil, "an error")
			// pgx closes its connection and asks the server to cancel; lib/pq waits for the answer.
			for running() {
			}
			check(one(other, "SELECT 1") == "1", "goes on")
			other.Close()
			for _, watcher := range watchers {
				watcher.Close()
			}
		}
	}},
	{"pipeline", func(s scene) {
		must(s.c.Raw(func(raw interface{}) error {
			connection := raw.(*stdlib.Conn).Conn()
			batch := &pgx.Batch{}
			for n := 0; n < 100; n++ {
				batch.Queue("INSERT INTO t VALUES ($1, $2)", n, "piped")
			}
			must(connection.SendBatch(ctx, batch).Close())
			batch = &pgx.Batch{}
			for _, n := range []int{1000, 1, 1001} {
				batch.Queue("INSERT INTO t VALUES ($1, $2)", n, "lost")
			}
			results := connection.SendBatch(ctx, batch)
			_, err := results.Exec()
			must(err)
			_, err = results.Exec()
			fails("23505", err)
			results.Close()
			return nil
		}))
		check(one(s.c, "SELECT count(*) FROM t") == "100", "100 rows")
	}},
	{"set", func(s scene) {
		other := s.another()
		defer other.Close()
		run(s.c, "SET work_mem = '5MB'")
		for n := 0; n < 5; n++ {
			check(one(s.c, "SHOW work_mem") == "5MB" && one(other, "SHOW work_mem") != "5MB", "each its own")
		}
		transaction, err := s.c.BeginTx(ctx, nil)
		must(err)
		run(transaction, "SET work_mem = '6MB'")
		must(transaction.Rollback())
		check(one(s.c, "SHOW work_mem") == "5MB", "undone")
	}},
	{"disconnect", func(s scene) {
		for n := 0; n < 3; n++ {
			var socket net.Conn
			lost := s.open(port, &socket)
			transaction, err := lost.Begin()
			must(err)
			run(transaction, "INSERT INTO t VALUES ($1, 'lost')", n)
			socket.Close()
			run(s.c, "INSERT INTO t VALUES ($1, 'stays')", n)
			lost.Close()
		}
		check(one(s.c, "SELECT string_agg(DISTINCT v, '') FROM t") == "stays", "stays")
	}},
}

type dialer struct{ socket *net.Conn }

func (d dialer) Dial(network, address string) (net.Conn, error) {
	connection, err := net.Dial(network, address)
	if d.socket != nil {
		*d.socket = connection
	}
	return connection, err
}

func (d dialer) DialTimeout(network, address string, _ time.Duration) (net.Conn, error) {
	return d.Dial(network, address)
}

type pqConnector struct {
	words  string
	dialer dialer
}

func (c pqConnector) Connect(context.Context) (driver.Conn, error) { return pq.DialOpen(c.dialer, c.words) }
func (c pqConnector) Driver() driver.Driver                        { return &pq.Driver{} }

func byPq(options string) opener {
	return func(port string, socket *net.Conn) *sql.DB {
		return sql.OpenDB(pqConnector{words(port) + options, dialer{socket}})
	}
}

func byPgx(simple bool) opener {
	return func(port string, socket *net.Conn) *sql.DB {
		config, err := pgx.ParseConfig(words(port))
		must(err)
		config.PreferSimpleProtocol = simple
		config.DialFunc = func(_ context.Context, network, address string) (net.Conn, error) {
			return dialer{socket}.Dial(network, address)
		}
		return stdlib.OpenDB(*config)
	}
}

func attempt(open opener, isPgx bool, body func(s scene)) (outcome string) {
	defer func() {
		if problem := recover(); problem != nil {
			outcome = "FAILED\t" + strings.Join(strings.Fields(fmt.Sprint(problem)), " ")
		}
	}()
	pool := open(port, nil)
	defer pool.Close()
	connection, err := pool.Conn(ctx)
	must(err)
	defer connection.Close()
	for _, table := range []string{"t", "large", "arrays"} {
		run(connection, "DELETE FROM "+table)
	}
	body(scene{c: connection, open: open, isPgx: isPgx})
	return "ok"
}

func main() {
	for _, mode := range []struct {
		name   string
		open   opener
		isPgx  bool
		cannot map[string]string
	}{
		{"Go lib/pq", byPq(""), false, map[string]string{"pipeline": "lib/pq has no pipelines"}},
		{"Go lib/pq, binary", byPq(" binary_parameters=yes"), false, map[string]string{"pipeline": "lib/pq has no pipelines"}},
		{"Go pgx", byPgx(false), true, nil},
		{"Go pgx, simple", byPgx(true), true, map[string]string{"arrays": "pgx does not know their types in simple mode"}},
	} {
		for _, one := range cases {
			outcome := "not applicable\t" + mode.cannot[one.name]
			if mode.cannot[one.name] == "" {
				outcome = attempt(mode.open, mode.isPgx, one.body)
			}
			fmt.Printf("%s\t%s\t%s\n", mode.name, one.name, outcome)
		}
	}
}
