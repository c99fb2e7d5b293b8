# Ruby's pg (libpq): the cases of driver_cases.py. Arguments: port, database, user, ports of the servers behind. See run.py.

require "pg"
require "socket"

PORT, DATABASE, USER, *BEHIND = ARGV

def open_at(port) = PG.connect(host: "127.0.0.1", port:, dbname: DATABASE, user: USER, sslmode: "disable")
def another = open_at(PORT)

def check(holds, what = "a check") = holds || raise("#{what} does not hold")

def fails(state)
  yield
  raise "no error #{state}"
rescue PG::Error => e
  found = e.result&.error_field(PG::PG_DIAG_SQLSTATE)
  check(found == state, "#{found} instead of #{state} (#{e.message})")
end

CASES = {
  "connect" => lambda do |c|
    20.times { other = another; check(other.exec("SELECT 1").getvalue(0, 0) == "1"); other.close }
  end,
  "simple" => lambda do |c|
    check(c.exec("INSERT INTO t VALUES (1, 'one'); INSERT INTO t VALUES (2, 'ü☃'); SELECT count(*) FROM t").getvalue(0, 0) == "2")
    check(c.exec("SELECT v FROM t ORDER BY id").column_values(0) == %w[one ü☃])
  end,
  "parameterised" => lambda do |c|
    hostile = "it's \"quoted\" \\ $1 ; -- ☃"
    c.exec_params("INSERT INTO t VALUES ($1, $2), ($3, $4)", [1, hostile, 2, nil])
    check(c.exec_params("SELECT v FROM t WHERE id = $1", [1]).getvalue(0, 0) == hostile)
    check(c.exec_params("SELECT v FROM t WHERE id = $1", [2]).getisnull(0, 0))
    50.times { |n| check(c.exec_params("SELECT $1::int + 1", [n]).getvalue(0, 0) == (n + 1).to_s) }
  end,
  "prepared" => lambda do |c|
    c.exec("INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 20) g")
    other = another
    c.prepare("shelf_row", "SELECT v FROM t WHERE id = $1")
    other.prepare("shelf_row", "SELECT id * 2 FROM t WHERE id = $1")
    (1..20).each do |n|
      c.transaction do
        check(c.exec_prepared("shelf_row", [n]).getvalue(0, 0) == "v#{n}")
        check(other.exec_prepared("shelf_row", [n]).getvalue(0, 0) == (2 * n).to_s)
      end
      check(c.exec_prepared("shelf_row", [n]).getvalue(0, 0) == "v#{n}")
    end
    check(c.describe_prepared("shelf_row").nparams == 1)
    other.close
  end,
  "rollback" => lambda do |c|
    c.exec("BEGIN")
    c.exec("INSERT INTO t VALUES (1, 'lost')")
    c.exec("ROLLBACK")
    check(c.exec("SELECT count(*) FROM t").getvalue(0, 0) == "0")
    c.transaction { c.exec("INSERT INTO t VALUES (1, 'stays')") }
    c.exec("BEGIN")
    fails("23505") { c.exec("INSERT INTO t VALUES (1, 'again')") }
    fails("25P02") { c.exec("SELECT 1") }
    c.exec("ROLLBACK")
    check(c.exec("SELECT v FROM t").getvalue(0, 0) == "stays")
  end,
  "savepoints" => lambda do |c|
    c.transaction do
      c.exec("INSERT INTO t VALUES (1, 'before')")
      c.exec("SAVEPOINT a")
      fails("23505") { c.exec("INSERT INTO t VALUES (1, 'again')") }
      c.exec("ROLLBACK TO a")
      c.exec("INSERT INTO t VALUES (2, 'undone')")
      c.exec("ROLLBACK TO a")
      c.exec("RELEASE a")
      c.exec("INSERT INTO t VALUES (3, 'after')")
    end
    check(c.exec("SELECT id FROM t ORDER BY id").column_values(0) == %w[1 3])
  end,
  "copy" => lambda do |c|
    lines = (0...10_000).map { |n| "#{n}\tline #{n}\n" }
    c.copy_data("COPY t FROM STDIN") { lines.each { |line| c.put_copy_data(line) } }
    read = []
    c.copy_data("COPY (SELECT * FROM t ORDER BY id) TO STDOUT") { while (line = c.get_copy_data); read << line; end }
    check(read == lines)
    fails("23505") { c.copy_data("COPY t FROM STDIN") { c.put_copy_data("1\tduplicate\n") } }
    check(c.exec("SELECT count(*) FROM t").getvalue(0, 0) == "10000")
  end,
  "large" => lambda do |c|
    text = "x☃" * 2_500_000
    data = Array.new(250) { |n| n }.pack("C*") * 40_000
    c.exec_params("INSERT INTO large VALUES (1, $1, $2)", [text, { value: data, format: 1 }])
    row = c.exec_params("SELECT body, data FROM large", [], 1)
    check(row.getvalue(0, 0).dup.force_encoding("UTF-8") == text && row.getvalue(0, 1).b == data)
  end,
  "arrays" => lambda do |c|
    # Binary: dimensions, a flag for NULLs, the type, length and lower bound, then each value with its length.
    numbers = [1, 1, 23, 3, 1, 4, 1, -1, 4, -3].pack("l>*")
    c.exec_params("INSERT INTO arrays VALUES (1, $1, $2)",
                  [{ value: numbers, format: 1, type: 1007 }, PG::TextEncoder::Array.new.encode(["a", nil, "b,\"c\" \\ {}"])])
    row = c.exec_params("SELECT numbers, texts FROM arrays", [], 1)
    check(row.getvalue(0, 0) == numbers, "the array")
    check(c.exec("SELECT numbers, texts FROM arrays").values == [["{1,NULL,-3}", '{a,NULL,"b,\"c\" \\\\ {}"}']])
  end,
  "errors" => lambda do |c|
    c.exec("INSERT INTO t VALUES (1, 'one')")
    { "SELEC 1" => "42601", "SELECT * FROM nowhere" => "42P01", "SELECT 1/0" => "22012",
      "INSERT INTO t VALUES (1, 'again')" => "23505" }.each do |text, state|
      fails(state) { c.exec(text) }
      fails(state) { c.exec_params(text, []) }
      check(c.exec("SELECT 1").getvalue(0, 0) == "1")
    end
  end,
  "cancel" => lambda do |c|
    watchers = BEHIND.map { |port| open_at(port) }
    ["pg_sleep(3600)", "count(*) FROM (SELECT generate_series(1, 1000000000000)) s"].each_with_index do |work, turn|
      mark = "/* ruby #{turn} of #{$$} */"
      seen = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND starts_with(query, '#{mark}')"
      c.send_query("#{mark} SELECT #{work}")
      loop do
        c.cancel if watchers.any? { |watcher| watcher.exec(seen).getvalue(0, 0) != "0" }
        c.consume_input
        break unless c.is_busy
      end
      fails("57014") { c.get_last_result }
      check(c.exec("SELECT 1").getvalue(0, 0) == "1")
    end
    watchers.each(&:close)
  end,
  "pipeline" => lambda do |c|
    c.enter_pipeline_mode
    100.times { |n| c.send_query_params("INSERT INTO t VALUES ($1, 'piped')", [n]) }
    c.pipeline_sync
    [1000, 1, 1001].each { |n| c.send_query_params("INSERT INTO t VALUES ($1, 'lost')", [n]) }
    c.pipeline_sync
    c.send_query_params("SELECT count(*) FROM t", [])
    c.pipeline_sync
    statuses = []
    value = nil
    until statuses.count(PG::PGRES_PIPELINE_SYNC) == 3
      result = c.get_result or next
      statuses << result.result_status
      value = result.getvalue(0, 0) if result.result_status == PG::PGRES_TUPLES_OK
    end
    c.exit_pipeline_mode
    check(value == "100", "#{value} rows")
    check(statuses.count(PG::PGRES_FATAL_ERROR) == 1 && statuses.count(PG::PGRES_PIPELINE_ABORTED) == 1)
  end,
  "set" => lambda do |c|
    other = another
    c.exec("SET work_mem = '5MB'")
    5.times do
      check(c.exec("SHOW work_mem").getvalue(0, 0) == "5MB")
      check(other.exec("SHOW work_mem").getvalue(0, 0) != "5MB")
    end
    c.exec("BEGIN; SET work_mem = '6MB'; ROLLBACK")
    check(c.exec("SHOW work_mem").getvalue(0, 0) == "5MB")
    other.close
  end,
  "disconnect" => lambda do |c|
    3.times do |n|
      lost = another
      lost.exec("BEGIN")
      lost.exec_params("INSERT INTO t VALUES ($1, 'lost')", [n])
      BasicSocket.for_fd(lost.socket_io.fileno).tap { |socket| socket.autoclose = false }.shutdown
      c.exec_params("INSERT INTO t VALUES ($1, 'stays')", [n])
    end
    check(c.exec("SELECT DISTINCT v FROM t").column_values(0) == ["stays"])
  end,
}.freeze

$stdout.sync = true
CASES.each do |name, body|
  c = another
  %w[t large arrays].each { |table| c.exec("DELETE FROM #{table}") }
  body.call(c)
  c.close
  puts "Ruby pg\t#{name}\tok"
rescue StandardError => e
  warn e.full_message
  puts "Ruby pg\t#{name}\tFAILED\t#{e.message.split.join(' ')}"
end
