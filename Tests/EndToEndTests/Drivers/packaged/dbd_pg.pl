# Perl's DBD::Pg (libpq): the cases of driver_cases.py. Arguments: port, database, user, ports of the servers behind.
# See run.py.

use strict;
use warnings;
use utf8;
use DBI;
use DBD::Pg ":async";
use Socket;

$| = 1;
binmode STDOUT, ":utf8";
my ($port, $database, $user, @behind) = @ARGV;
my $mode;
my $prepares;

sub open_at {
    my ($port) = @_;
    return DBI->connect("dbi:Pg:host=127.0.0.1;port=$port;dbname=$database;sslmode=disable", $user, "",
        { RaiseError => 1, PrintError => 0, AutoCommit => 1, pg_enable_utf8 => 1, pg_server_prepare => $prepares });
}

sub check { $_[0] or die(($_[1] // "a check") . " does not hold\n") }

sub one { my ($c, $text, @arguments) = @_; return ($c->selectrow_array($text, undef, @arguments))[0] }

sub fails {
    my ($c, $state, $action) = @_;
    eval { $action->(); 1 } and die "no error $state\n";
    check($c->state eq $state, $c->state . " instead of $state: $@");
}

my @cases = (
    connect => sub { for (1 .. 20) { my $other = open_at($port); check(one($other, "SELECT 1") == 1); $other->disconnect } },
    simple => sub {
        my ($c) = @_;
        $c->do("INSERT INTO t VALUES (1, 'one'); INSERT INTO t VALUES (2, 'ünï☃')");
        check(join(" ", @{ $c->selectcol_arrayref("SELECT v FROM t ORDER BY id") }) eq "one ünï☃");
    },
    parameterised => sub {
        my ($c) = @_;
        my $hostile = "it's \"quoted\" \\ \$1 ; -- ☃";
        $c->do("INSERT INTO t VALUES (?, ?), (?, ?)", undef, 1, $hostile, 2, undef);
        check(one($c, "SELECT v FROM t WHERE id = ?", 1) eq $hostile);
        check(!defined one($c, "SELECT v FROM t WHERE id = ?", 2));
        check(one($c, "SELECT CAST(? AS int) + 1", $_) == $_ + 1) for 0 .. 49;
    },
    prepared => sub {
        my ($c) = @_;
        $c->do("INSERT INTO t SELECT g, 'v' || g FROM generate_series(1, 20) g");
        my $other = open_at($port);
        my $mine = $c->prepare("SELECT v FROM t WHERE id = ?");
        my $theirs = $other->prepare("SELECT id * 2 FROM t WHERE id = ?");
        for my $n (1 .. 20) {
            $c->begin_work;
            check(($c->selectrow_array($mine, undef, $n))[0] eq "v$n");
            check(($other->selectrow_array($theirs, undef, $n))[0] == 2 * $n);
            $n % 2 ? $c->commit : $c->rollback;
            check(($c->selectrow_array($mine, undef, $n))[0] eq "v$n");
        }
        $other->disconnect;
    },
    rollback => sub {
        my ($c) = @_;
        $c->begin_work;
        $c->do("INSERT INTO t VALUES (1, 'lost')");
        check(one($c, "SELECT count(*) FROM t") == 1);
        $c->rollback;
        check(one($c, "SELECT count(*) FROM t") == 0);
        $c->begin_work;
        $c->do("INSERT INTO t VALUES (1, 'stays')");
        $c->commit;
        $c->begin_work;
        fails($c, "23505", sub { $c->do("INSERT INTO t VALUES (1, 'again')") });
        fails($c, "25P02", sub { one($c, "SELECT 1") });
        $c->rollback;
        check(one($c, "SELECT v FROM t") eq "stays");
    },
    savepoints => sub {
        my ($c) = @_;
        $c->begin_work;
        $c->do("INSERT INTO t VALUES (1, 'before')");
        $c->pg_savepoint("a");
        fails($c, "23505", sub { $c->do("INSERT INTO t VALUES (?, 'again')", undef, 1) });
        $c->pg_rollback_to("a");
        $c->do("INSERT INTO t VALUES (2, 'undone')");
        $c->pg_rollback_to("a");
        $c->pg_release("a");
        $c->do("INSERT INTO t VALUES (3, 'after')");
        $c->commit;
        check(join(" ", @{ $c->selectcol_arrayref("SELECT id FROM t ORDER BY id") }) eq "1 3");
    },
    copy => sub {
        my ($c) = @_;
        my @lines = map { "$_\tline $_\n" } 0 .. 9999;
        $c->do("COPY t FROM STDIN");
        $c->pg_putcopydata($_) for @lines;
        $c->pg_putcopyend;
        $c->do("COPY (SELECT * FROM t ORDER BY id) TO STDOUT");
        my ($line, $read) = ("", "");
        $read .= $line while $c->pg_getcopydata($line) >= 0;
        check($read eq join("", @lines));
        $c->do("COPY t FROM STDIN");
        $c->pg_putcopydata("1\tduplicate\n");
        fails($c, "23505", sub { $c->pg_putcopyend });
        check(one($c, "SELECT count(*) FROM t") == 10_000);
    },
    large => sub {
        my ($c) = @_;
        my $text = "x☃" x 2_500_000;
        my $data = join("", map { chr } 0 .. 249) x 40_000;
        my $insert = $c->prepare("INSERT INTO large VALUES (1, ?, ?)");
        $insert->bind_param(1, $text);
        $insert->bind_param(2, $data, { pg_type => DBD::Pg::PG_BYTEA });
        $insert->execute;
        my ($body, $bytes) = $c->selectrow_array("SELECT body, data FROM large");
        check($body eq $text && $bytes eq $data);
    },
    arrays => sub {
        my ($c) = @_;
        my ($numbers, $texts) = ([1, undef, -3], ["a", undef, 'b,"c" \\ {d}']);
        $c->do("INSERT INTO arrays VALUES (1, ?, ?)", undef, $numbers, $texts);
        my ($n, $t) = $c->selectrow_array("SELECT numbers, texts FROM arrays");
        check($n->[2] == -3 && !defined $n->[1] && $t->[2] eq $texts->[2] && !defined $t->[1]);
    },
    errors => sub {
        my ($c) = @_;
        $c->do("INSERT INTO t VALUES (1, 'one')");
        my %wrong = ("SELEC 1" => "42601", "SELECT * FROM nowhere" => "42P01", "SELECT 1/0" => "22012",
            "INSERT INTO t VALUES (1, 'again')" => "23505");
        for my $text (sort keys %wrong) {
            fails($c, $wrong{$text}, sub { $c->do($text) }) for 1 .. 2;
            check(one($c, "SELECT 1") == 1);
        }
    },
    cancel => sub {
        my ($c) = @_;
        my @watchers = map { open_at($_) } @behind;
        for my $turn (1 .. 3) {
            my $mark = "/* perl $turn of $$ */";
            my $seen = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND starts_with(query, '$mark')";
            $c->do("$mark SELECT pg_sleep(3600)", { pg_async => PG_ASYNC });
            1 until grep { one($_, $seen) } @watchers;
            check($c->pg_cancel, "the request");
            check(one($c, "SELECT 1") == 1);
            check(!grep({ one($_, $seen) } @watchers), "its end");
        }
        $_->disconnect for @watchers;
    },
    pipeline => undef,
    set => sub {
        my ($c) = @_;
        my $other = open_at($port);
        $c->do("SET work_mem = '5MB'");
        check(one($c, "SHOW work_mem") eq "5MB" && one($other, "SHOW work_mem") ne "5MB") for 1 .. 5;
        $c->do("BEGIN; SET work_mem = '6MB'; ROLLBACK");
        check(one($c, "SHOW work_mem") eq "5MB");
        $other->disconnect;
    },
    disconnect => sub {
        my ($c) = @_;
        for my $n (0 .. 2) {
            my $lost = open_at($port);
            $lost->begin_work;
            $lost->do("INSERT INTO t VALUES (?, 'lost')", undef, $n);
            open(my $socket, "+<&=", $lost->{pg_socket}) or die $!;
            shutdown($socket, 2);
            $lost->{InactiveDestroy} = 1;
            $c->do("INSERT INTO t VALUES (?, 'stays')", undef, $n);
        }
        check(join(" ", @{ $c->selectcol_arrayref("SELECT DISTINCT v FROM t") }) eq "stays");
    },
);

for (["DBD::Pg", 1], ["DBD::Pg, simple", 0]) {
    ($mode, $prepares) = @$_;
    my @left = @cases;
    while (my ($name, $body) = splice @left, 0, 2) {
        my $outcome = "not applicable\tDBD::Pg has no pipelines";
        if ($body) {
            my $c = open_at($port);
            $c->do("DELETE FROM $_") for qw(t large arrays);
            $outcome = eval { $body->($c); 1 } ? "ok" : "FAILED\t" . join(" ", split " ", $@);
            eval { $c->disconnect };
        }
        print "$mode\t$name\t$outcome\n";
    }
}
