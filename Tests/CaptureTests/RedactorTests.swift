import PGWire
import Primitives
import SQLAnalysis
import Testing

@testable import Capture

@Suite struct RedactorTests {
    private func redacted(_ sql: String) -> String {
        var redactor = Redactor(key: [1, 2, 3])
        return String(decoding: redactor.sql(Array(sql.utf8)), as: UTF8.self)
    }

    @Test(arguments: [
        "SELECT * FROM t WHERE id = 4711 AND name = 'Smith'", "SELECT 'it''s', E'a\\nb', $$dollar quoted$$, $x$more$x$",
        "INSERT INTO t VALUES (1.5, -42, 2147483646, 9223372036854775806, 3e10, X'1F', B'0101')",
        "/* user_id=42, route='/carts' */ SELECT 1 -- by Miller", "SELECT U&'d\\0061t', N'abc'",
        "SELECT timestamp '2024-02-29 12:30:59.123', date '1999-12-31', time '08:15', interval '3 days 2 hours'",
        "SELECT '{\"name\": \"Jane\", \"age\": 31, \"ok\": true}'::jsonb, '550e8400-e29b-41d4-a716-446655440000'::uuid",
        "SELECT 'Zürich', '日本'",
    ])
    func `the shape and the length stay, the values go`(sql: String) {
        let changed = redacted(sql)
        #expect(changed.utf8.count == sql.utf8.count)
        #expect(ShapeID(ofText: changed) == ShapeID(ofText: sql), "\(changed)")
        let words = Set(changed.split { !$0.isLetter && !$0.isNumber }.map(String.init))
        for value in ["4711", "Smith", "dollar", "2147483646", "9223372036854775806", "42", "Miller", "Jane", "2024",
            "550e8400", "carts", "Zürich", "日本", "Jane", "31", "1999"]
        where sql.contains(value) {
            #expect(!words.contains(value), "\(value) in \(changed)")
        }
    }

    @Test func `the same value has the same pseudonym, in texts and in parameters`() {
        var redactor = Redactor(key: [9])
        let text = String(decoding: redactor.sql(Array("SELECT 'Smith', 'Smith', 'Smythe'".utf8)), as: UTF8.self)
        let words = text.split { !$0.isLetter }.dropFirst()
        #expect(words.first == words.dropFirst().first && words.first != words.last)
        var bind = MessageWriter()
        bind.cString("")
        bind.cString("")
        bind.int16(0)
        bind.int16(1)
        bind.int32(5)
        bind.raw(Array("Smith".utf8))
        bind.int16(0)
        let record = CaptureRecord(
            connection: 1, micros: 1, content: .message(tag: FrontendTag.bind, answers: 0, body: bind.bytes))
        guard case .message(_, _, let body) = redactor.redact(record).content else {
            Issue.record("no message")
            return
        }
        #expect(body.count == bind.bytes.count)
        #expect(String(decoding: body, as: UTF8.self).contains(words.first ?? "?"))
        var other = Redactor(key: [10])
        #expect(other.sql(Array("SELECT 'Smith'".utf8)) != redactor.sql(Array("SELECT 'Smith'".utf8)))
    }

    @Test func `forms that types need stay`() {
        let moment = redacted("SELECT '2024-02-29 12:30:59.123+02'")
        #expect(moment.firstMatch(of: /'(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d) ([01]\d|2[0-3]):[0-5]\d:[0-5]\d\.\d{3}\+02'/) != nil)
        #expect(redacted("SELECT interval '3 days'").contains("days"))
        #expect(redacted("SELECT true, 'true', null").hasSuffix("true, 'true', null"))
        #expect(redacted("SELECT nextval('orders_id_seq')") == "SELECT nextval('orders_id_seq')")
        #expect(redacted("SET statement_timeout = '5s'") == "SET statement_timeout = '5s'")
        #expect(!redacted("SET godwit.user = '4711'").contains("4711"))
        #expect(redacted("SELECT set_config('godwit.user', '4711', false)").contains("'godwit.user'"))
        let code = redacted("DO $$BEGIN INSERT INTO t VALUES ('Smith'); END$$")
        #expect(code.contains("BEGIN INSERT INTO t VALUES (") && !code.contains("Smith"))
        for (text, max) in [("2147483647", Int64(Int32.max)), ("9223372036854775807", Int64.max)] {
            let number = redacted("SELECT \(text)").dropFirst(7)
            #expect(Int64(number).map { $0 <= max && number.count == text.count } == true)
        }
    }

    @Test(arguments: [
        ("CREATE ROLE bob PASSWORD $$hunter2$$", "CREATE ROLE bob PASSWORD $$"),
        ("CREATE TABLE x AS SELECT $$hunter2$$", "CREATE TABLE x AS SELECT $$"),
        ("CREATE SUBSCRIPTION s CONNECTION $x$password=hunter2$x$ PUBLICATION p", "$x$ PUBLICATION p"),
        ("CREATE USER MAPPING FOR bob SERVER s OPTIONS (password $$hunter2$$)", "FOR bob SERVER s OPTIONS (password $$"),
        ("CREATE FUNCTION f() RETURNS text AS $$return 'x' + hunter2$$ LANGUAGE plpython3u", "$$ LANGUAGE plpython3u"),
        ("CREATE FUNCTION f() RETURNS text LANGUAGE 'plperl' AS $$hunter2$$", "LANGUAGE 'plperl' AS $$"),
        ("CREATE FUNCTION f(language sql) RETURNS text AS $$hunter2$$ LANGUAGE plv8", "f(language sql) RETURNS text AS $$"),
        ("CREATE FUNCTION f(a text DEFAULT $$hunter2$$) RETURNS text AS $$SELECT a$$ LANGUAGE sql", "AS $$SELECT a$$"),
        ("CREATE FUNCTION f() RETURNS text AS $$hunter2$$", "AS $$"),
        ("DO LANGUAGE plpython3u $$hunter2$$", "DO LANGUAGE plpython3u $$"),
        ("DO LANGUAGE plpgsql $$BEGIN PERFORM f('hunter2'); END$$", "$$BEGIN PERFORM f('"),
        ("DO $$BEGIN SET app.user TO hunter2; SET x.y = 'hunter2'; END$$ LANGUAGE 'plpgsql'", "END$$ LANGUAGE 'plpgsql'"),
        ("CREATE OR REPLACE PROCEDURE p() AS 'BEGIN PERFORM f(''hunter2''); END' LANGUAGE plpgsql",
            "AS 'BEGIN PERFORM f(''"),
        ("CREATE FUNCTION f() RETURNS text LANGUAGE sql SET app.user TO hunter2 AS $$SELECT 'hunter2'::text$$",
            "AS $$SELECT '"),
        ("CREATE FUNCTION f() RETURNS text LANGUAGE sql AS E'SELECT \\'hunter2\\''", "LANGUAGE sql AS E'"),
        ("CREATE FUNCTION f() RETURNS text LANGUAGE sql BEGIN ATOMIC UPDATE t SET a.b = c; SELECT 'hunter2'; END",
            "UPDATE t SET a.b = c; SELECT '"),
        ("SET \"app.user\" = 'hunter2'", "SET \"app.user\" = '"), ("SET LOCAL \"a.b\" = '{\"x\": \"hunter2\"}'", "'{\""),
        ("SET app.user TO hunter2, \"hunter2\"", "SET app.user TO "), ("SET U&\"a\\002eb\" = 'hunter2'", "= '"),
        ("SET session.tenant = hunter2", "SET session.tenant = "),
        ("SET LOCAL session.a TO hunter2", "SET LOCAL session.a TO "),
        ("SET SESSION local.a.b TO x, hunter2", "SET SESSION local.a.b TO "),
        ("ALTER ROLE bob SET app.user TO hunter2", "ALTER ROLE bob SET app.user TO "),
        ("SELECT $$hunter2", "SELECT $$"), ("SELECT $x$hunter2", "SELECT $x$"), ("SELECT 'hunter2", "SELECT '"),
        ("SELECT 1 /* hunter2's \" hunter2", " /* "), ("SELECT $hunter2", "SELECT $"),
        ("/* note='say hunter2=x' */ SELECT 1", "/* note='"), ("/* a/hunter2=x */ SELECT 1", "SELECT "),
    ])
    func `no value stays, wherever it stands, and what it stands in does`(sql: String, kept: String) {
        let changed = redacted(sql)
        #expect(changed.utf8.count == sql.utf8.count)
        #expect(!changed.contains("hunter2") && changed.contains(kept), "\(changed)")
    }

    @Test func `no value stays where backslashes escape in plain quotes`() {
        var redactor = Redactor(key: [1, 2, 3])
        func said(_ text: String, _ connection: UInt64) -> String {
            let body = Array(text.utf8) + [0]
            let record = CaptureRecord(
                connection: connection, micros: 1, content: .message(tag: FrontendTag.query, answers: 0, body: body))
            guard case .message(_, _, let made) = redactor.redact(record).content else { return "no message" }
            return String(decoding: made.dropLast(), as: UTF8.self)
        }
        let text = #"SELECT 'O\'Hunter', 'x' AS name"#, path = #"SELECT 'C:\', name, 'x'"#
        for (sets, restores) in [
            ("SET standard_conforming_strings = off", "SET standard_conforming_strings TO 'on'"),
            ("SELECT set_config('standard_conforming_strings', 'off', false)",
                "SET Standard_Conforming_Strings = true"),
            ("SET standard_conforming_strings = off", "RESET standard_conforming_strings"),
            ("SET standard_conforming_strings = off", "SET standard_conforming_strings TO DEFAULT"),
            ("SET standard_conforming_strings = off", "DISCARD ALL"),
        ] {
            #expect(said(path, 1).contains("', name, '"))
            _ = said(sets, 1)
            let changed = said(text, 1)
            #expect(!changed.contains("Hunter") && changed.contains("AS name"), "\(changed)")
            #expect(said(path, 2).contains("', name, '"))
            _ = said(restores, 1)
            #expect(said(path, 1).contains("', name, '"))
        }
        let strings = CapturedConnection.Setting(
            name: "standard_conforming_strings", statement: "SET standard_conforming_strings TO off")
        let connection = CapturedConnection(user: "u", database: "d", applicationName: "", settings: [strings])
        let record = CaptureRecord(connection: 3, micros: 1, content: .connect(connection))
        #expect(redactor.redact(record) == record)
        for resets in ["SELECT 1", "RESET ALL"] {
            _ = said(resets, 3)
            let changed = said(text, 3)
            #expect(!changed.contains("Hunter") && changed.contains("AS name"), "\(changed)")
        }
    }

    @Test func `a setting of PostgreSQL's own and a column keep what they are set to`() {
        for text in [
            "SET search_path TO a, \"b.c\"", "SET app.user TO DEFAULT", "SET LOCAL work_mem = '4MB'", "SET ROLE \"a.b\"",
            "UPDATE t SET a.b = c, d = e", "ALTER TABLE t ALTER c SET DEFAULT s.f(x)", "SET CONSTRAINTS a.b IMMEDIATE",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path = a AS $$SELECT b$$",
        ] { #expect(redacted(text) == text) }
    }

    @Test(arguments: [
        ("WHERE card = 4111_1111_1111_1111", #"WHERE card = [1-9]\d{3}_\d{4}_\d{4}_\d{4}"#, "1111"),
        ("SELECT 0xDEADBEEF, 0XdeadBeef_01", #"SELECT 0x[1-7][0-9A-F]{7}, 0X[1-7][0-9A-F]{7}_[0-9A-F]{2}"#, "DEADBEEF"),
        ("SELECT 0o4711, 0b11001", #"SELECT 0o1[0-7]{3}, 0b1[01]{4}"#, "4711"),
        ("WHERE id=4711AND x", #"WHERE id=[1-9]\d{3}AND x"#, "4711"),
        ("SELECT 4711alice, 1e5bob", #"SELECT [1-9]\d{3}[a-z]{5}, \de5[a-z]{3}"#, "alice"),
        ("SELECT 47_11.47_11e1_0", #"SELECT \d\d_\d\d\.\d\d_\d\de1_0"#, "47_11"),
        ("SELECT 0x'ab', 4711$$4711$$", #"SELECT \dx'[5a]{2}', [1-9]\d{3}\$\$[1-9]\d{3}\$\$"#, "4711"),
    ])
    func `a number that runs into a word goes as a whole`(sql: String, form: String, value: String) throws {
        let changed = redacted(sql)
        #expect(try changed.wholeMatch(of: Regex(form)) != nil && !changed.contains(value), "\(changed)")
    }

    @Test func `base64 in a comment is no key, and keys are where routing looks for them`() {
        for text in ["/* session=YWxpY2VAeC5jb20= */", "/* s='a/YWxp=' */", "-- s=YWxp==,x=1", "/* s=b-YWxp=, */"] {
            let changed = redacted(text)
            #expect(!changed.contains("YWxp") && changed.dropFirst(3).hasPrefix("s"), "\(changed)")
        }
        #expect(redacted("/*user_id='4711',route='/x'*/").contains(/user_id='\d{4}',route='\/[a-z]'/))
    }

    @Test func `whole numbers that differ stay different, and none stays what it is`() {
        let key = (0..<32).map { _ in UInt8.random(in: 0 ... .max) }
        var pseudonyms = Pseudonyms(key: key)
        func changed(_ text: String) -> String { String(decoding: pseudonyms.of(Array(text.utf8)), as: UTF8.self) }
        for range in [0...9, 10...99, 100...999, 1000...9999, 30_000...33_000] {
            let made = range.map { changed("\($0)") }
            #expect(Set(made).count == range.count, "key \(key)")
            for (value, made) in zip(range, made) {
                #expect(made != "\(value)" && made.utf8.count == "\(value)".utf8.count, "key \(key)")
                #expect(made.first != "0" || made.count == 1, "key \(key)")
                #expect((value <= Int16.max) == (Int(made).map { $0 <= Int16.max }), "key \(key)")
            }
        }
        let zeros = (0...99).map { changed("0" + ($0 < 10 ? "0" : "") + "\($0)") }
        #expect(Set(zeros).count == 100 && zeros.allSatisfy { $0.first == "0" && $0.count == 3 }, "key \(key)")
        for text in ["9999999999999999999", "10000000000000000000", "123456789012345678901234567890", "2147483648"] {
            #expect(changed(text).count == text.count && changed(text) != text, "key \(key)")
        }
    }

    @Test func `binary parameters stay of their type`() {
        var redactor = Redactor(key: [7])
        func changed(_ value: [UInt8]) -> [UInt8] {
            var bind = MessageWriter()
            bind.cString("")
            bind.cString("")
            bind.int16(1)
            bind.int16(1)
            bind.int16(1)
            bind.int32(Int32(value.count))
            bind.raw(value)
            bind.int16(0)
            let record = CaptureRecord(
                connection: 1, micros: 1, content: .message(tag: FrontendTag.bind, answers: 0, body: bind.bytes))
            guard case .message(_, _, let body) = redactor.redact(record).content else { return [] }
            #expect(body.count == bind.bytes.count)
            return Array(body.dropFirst(12).prefix(value.count))
        }
        let number = changed([0, 0, 0x12, 0x34])  // 4660
        let value = number.reduce(0) { $0 << 8 | Int($1) }
        #expect(value != 4660 && (1000...9999).contains(value))
        // Of one byte: true and false are that, and a letter is a text.
        #expect(changed([0]) == [0] && changed([1]) == [1] && changed(Array("M".utf8)) != Array("M".utf8))
        // An array of two texts.
        let array: [UInt8] = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 25, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 0x61, 0x62, 0x63,
            0, 0, 0, 3, 0x64, 0x65, 0x66]
        let other = changed(array)
        #expect(other.prefix(24) == array.prefix(24) && other[24..<27] != array[24..<27])
    }

    @Test func `a statement may have as many parameters and formats as the protocol counts`() {
        var redactor = Redactor(key: [7])
        for count in [32_767, 32_768, 65_535] {
            var bind = MessageWriter()
            bind.cString("")
            bind.cString("")
            bind.int16(Int16(truncatingIfNeeded: count))
            for _ in 0..<count { bind.int16(0) }
            bind.int16(Int16(truncatingIfNeeded: count))
            for _ in 0..<count {
                bind.int32(2)
                bind.raw(Array("ab".utf8))
            }
            bind.int16(0)
            let record = CaptureRecord(
                connection: 1, micros: 1, content: .message(tag: FrontendTag.bind, answers: 0, body: bind.bytes))
            guard case .message(_, _, let body) = redactor.redact(record).content else {
                Issue.record("no message of \(count)")
                continue
            }
            #expect(body.count == bind.bytes.count && body != bind.bytes, "\(count)")
        }
    }

    @Test func `the fields of a binary COPY go, however it is cut, and its form stays`() {
        func field(_ bytes: [UInt8]) -> [UInt8] { [0, 0, 0, UInt8(bytes.count)] + bytes }
        let header = Array("PGCOPY\n".utf8) + [0xFF, 0x0D, 0x0A, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        func row(_ id: UInt8, _ name: String) -> [UInt8] {
            [0, 3] + field([0, 0, 1, id]) + field(Array(name.utf8)) + [0xFF, 0xFF, 0xFF, 0xFF]
        }
        let data = header + row(1, "Miller") + row(2, "Smith") + [0xFF, 0xFF]
        func redacted(_ pieces: [[UInt8]]) -> [UInt8] {
            var redactor = Redactor(key: [7])
            return pieces.flatMap { piece in
                let record = CaptureRecord(
                    connection: 1, micros: 1, content: .message(tag: FrontendTag.copyData, answers: 0, body: piece))
                guard case .message(_, _, let body) = redactor.redact(record).content else { return [UInt8]() }
                return body
            }
        }
        let whole = redacted([data])
        #expect(whole.count == data.count && whole.prefix(25) == data.prefix(25) && whole.suffix(2) == [0xFF, 0xFF])
        #expect(whole[25..<29] != data[25..<29] && whole[29..<33] == [0, 0, 0, 6])
        #expect(!String(decoding: whole, as: UTF8.self).contains("Miller"))
        for cut in header.count..<data.count {
            let made = redacted([Array(data.prefix(cut)), Array(data.dropFirst(cut))])
            #expect(made.count == data.count && made.suffix(2) == [0xFF, 0xFF] && made[29..<33] == [0, 0, 0, 6])
        }
    }

    @Test func `no digest stays, by which a result could be guessed`() {
        var answer = CapturedAnswer(.complete)
        answer.rows = 1
        answer.tag = "SELECT 1"
        let plain = answer
        answer.digest = RowDigest.Value(ordered: 1, unordered: 2)
        var redactor = Redactor(key: [7])
        let record = redactor.redact(CaptureRecord(connection: 1, micros: 1, content: .answer(answer)))
        #expect(record.content == .answer(plain))
    }

    @Test func `nothing makes it trap, and lengths stay`() {
        let seed = UInt64.random(in: 0 ... .max)
        print("redactor: seed \(seed)")
        var generator = SeededGenerator(seed: seed)
        var redactor = Redactor(key: [7])
        let alphabet = Array("'\"$E/*-- ab19=;\\(){}[]x\u{e9},.".utf8)
        for _ in 0..<3000 {
            let count = Int.random(in: 0..<40, using: &generator)
            let text = (0..<count).map { _ in alphabet[Int.random(in: 0..<alphabet.count, using: &generator)] }
            #expect(redactor.sql(text).count == text.count, "seed \(seed)")
        }
    }
}
