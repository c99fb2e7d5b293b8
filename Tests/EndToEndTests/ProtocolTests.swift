import TestSupport
import Testing

/// The protocol message by message, as drivers do not show it.
@Suite(.serialized) struct ProtocolTests {
    let database: String
    let godwit: GodwitProcess

    init() throws {
        let servers = try Servers.shared.get()
        database = try servers.makeDatabase("CREATE TABLE t (id int PRIMARY KEY, v text)")
        godwit = try servers.godwit(database)
    }

    func connect() throws -> WireClient { try WireClient(port: godwit.port, database: database) }

    typealias Frame = FrameBuilder

    @Test func `requests for encryption are answered N, and the login goes on`() throws {
        let client = try WireClient(port: godwit.port)
        client.send([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x30])      // GSSENCRequest
        #expect(client.readByte() == 0x4e)
        client.send([0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f])      // SSLRequest
        #expect(client.readByte() == 0x4e)
        client.send(Frame.startup([("user", "app"), ("database", database)]))
        let login = try client.readToReady()
        #expect(login.first?.type == "R")
        #expect(try client.value("SELECT 1") == "1")
    }

    @Test func `a login tells the server's parameters and a key for cancelling`() throws {
        let client = try WireClient(port: godwit.port)
        client.send(Frame.startup([("user", "app"), ("database", database), ("application_name", "tests")]))
        let login = try client.readToReady()
        let names = login.filter { $0.type == "S" }.compactMap {
            $0.body.split(separator: 0).first.map { String(decoding: $0, as: UTF8.self) }
        }
        #expect(Set(names).isSuperset(of: [
            "server_version", "client_encoding", "server_encoding", "DateStyle", "TimeZone", "integer_datetimes",
            "standard_conforming_strings",
        ]))
        #expect(login.contains { $0.type == "K" && $0.body.count == 8 })
        #expect(login.last?.transactionStatus == "I")
        #expect(try client.value("SHOW application_name") == "tests")
    }

    @Test func `a session sent byte by byte is the same session`() throws {
        let client = try WireClient(port: godwit.port)
        client.sendByteByByte(Frame.startup([("user", "app"), ("database", database)]))
        _ = try client.readToReady()
        client.sendByteByByte(Frame.query("SELECT 'simple'"))
        #expect(try client.readToReady().map(\.type) == ["T", "D", "C", "Z"])
        client.sendByteByByte(
            Frame.parse("SELECT $1::text", name: "s") + Frame.describeStatement("s")
                + Frame.bind(statement: "s", parameters: ["extended"]) + Frame.execute() + Frame.sync)
        let answers = try client.readToReady()
        #expect(answers.map(\.type) == ["1", "t", "T", "2", "D", "C", "Z"])
        #expect(answers[4].columns == ["extended"])
        client.sendByteByByte(Frame.terminate)
        #expect(try client.readToEnd().isEmpty)
    }

    @Test func `pipelined batches are answered in order`() throws {
        let client = try connect()
        var batches: [UInt8] = []
        for number in 1...200 {
            batches += Frame.parse("SELECT \(number)") + Frame.bind() + Frame.execute() + Frame.sync
        }
        client.send(batches)
        for number in 1...200 {
            let answers = try client.readToReady()
            #expect(answers.first { $0.type == "D" }?.columns == ["\(number)"])
        }
    }

    @Test func `an error skips to its Sync, and the next batch runs`() throws {
        let client = try connect()
        client.send(
            Frame.parse("SELECT 1/0") + Frame.bind() + Frame.execute()
                + Frame.parse("SELECT 'skipped'") + Frame.bind() + Frame.execute() + Frame.sync
                + Frame.parse("SELECT 'runs'") + Frame.bind() + Frame.execute() + Frame.sync)
        let failed = try client.readToReady()
        // PostgreSQL folds the constant when it plans, which is at Bind.
        #expect(failed.map(\.type) == ["1", "E", "Z"])
        #expect(failed.first { $0.type == "E" }?.sqlState == "22012")
        let next = try client.readToReady()
        #expect(next.map(\.type) == ["1", "2", "D", "C", "Z"])
        #expect(next[2].columns == ["runs"])
    }

    @Test func `an error in a transaction fails it until ROLLBACK`() throws {
        let client = try connect()
        #expect(try client.query("BEGIN").last?.transactionStatus == "T")
        #expect(try client.query("SELECT * FROM nowhere").last?.transactionStatus == "E")
        #expect(try client.query("SELECT 1").first?.sqlState == "25P02")
        #expect(try client.query("ROLLBACK").last?.transactionStatus == "I")
        #expect(try client.value("SELECT 1") == "1")
    }

    @Test func `Flush brings the answers before Sync`() throws {
        let client = try connect()
        client.send(Frame.parse("SELECT 1 AS one", name: "f") + Frame.describeStatement("f") + Frame.flush)
        #expect(try client.read()?.type == "1")
        #expect(try client.read()?.type == "t")
        #expect(try client.read()?.type == "T")
        client.send(Frame.bind(statement: "f") + Frame.execute() + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["2", "D", "C", "Z"])
    }

    @Test func `a portal is read in parts inside a transaction`() throws {
        let client = try connect()
        _ = try client.query("BEGIN")
        client.send(
            Frame.parse("SELECT generate_series(1, 5)") + Frame.bind(portal: "p")
                + Frame.execute(portal: "p", rowsMax: 2) + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["1", "2", "D", "D", "s", "Z"])
        client.send(Frame.execute(portal: "p") + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["D", "D", "D", "C", "Z"])
        #expect(try client.query("COMMIT").first?.commandTag == "COMMIT")
    }

    @Test func `several statements, none and only a comment in one query`() throws {
        let client = try connect()
        #expect(try client.query("SELECT 1; SELECT 2").map(\.type) == ["T", "D", "C", "T", "D", "C", "Z"])
        #expect(try client.query("").map(\.type) == ["I", "Z"])
        #expect(try client.query("-- nothing").map(\.type) == ["I", "Z"])
        client.send(Frame.parse("") + Frame.bind() + Frame.execute() + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["1", "2", "I", "Z"])
        client.send(Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["Z"])
    }

    @Test func `named statements follow the client from server to server`() throws {
        let servers = try Servers.shared.get()
        let godwit = try servers.godwit(database) { $0.database.pool = ["size": "2"] }
        let clients = try (0..<6).map { _ in try WireClient(port: godwit.port, database: database) }
        for (number, client) in clients.enumerated() {
            client.send(Frame.parse("SELECT $1::int + \(number * 100)", name: "same") + Frame.sync)
            #expect(try client.readToReady().map(\.type) == ["1", "Z"])
        }
        // Two of them in transactions at once, so that both servers are used in turn by everybody.
        for round in 0..<12 {
            let pair = [clients[round % 6], clients[(round + 1 + round / 6) % 6]]
            for client in pair { _ = try client.query("BEGIN") }
            for client in pair {
                client.send(Frame.bind(statement: "same", parameters: ["\(round)"]) + Frame.execute() + Frame.sync)
                let answers = try client.readToReady()
                #expect(answers.map(\.type) == ["2", "D", "C", "Z"])
                let number = clients.firstIndex { $0 === client } ?? -1
                #expect(answers.first { $0.type == "D" }?.columns == ["\(round + number * 100)"])
            }
            for client in pair { _ = try client.query("COMMIT") }
        }
    }

    @Test(arguments: ["", "s"])
    func `an error in a batch does not cost the next one its statement on another server`(name: String) throws {
        let client = try connect()
        client.send(Frame.parse("SELECT 'mine'", name: name) + Frame.sync)
        _ = try client.readToReady()
        // Its server is taken: the next batches go to one that does not have the statement.
        let other = try connect()
        _ = try other.query("BEGIN; INSERT INTO t VALUES (-1)")
        let use = Frame.bind(statement: name) + Frame.execute()
        let failing = Frame.bind(statement: "nobody's")
        client.send(failing + use + Frame.sync + use + Frame.sync + use + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["E", "Z"])
        for _ in 0..<2 { #expect(try client.readToReady().map(\.type) == ["2", "D", "C", "Z"]) }
        client.send(use + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["2", "D", "C", "Z"])
        _ = try other.query("ROLLBACK")
    }

    @Test func `a closed statement is gone, and its name is free`() throws {
        let client = try connect()
        client.send(Frame.parse("SELECT 1", name: "n") + Frame.sync)
        _ = try client.readToReady()
        client.send(Frame.parse("SELECT 2", name: "n") + Frame.sync)
        #expect(try client.readToReady().first?.sqlState == "42P05")
        client.send(Frame.closeStatement("n") + Frame.parse("SELECT 3", name: "n") + Frame.bind(statement: "n")
            + Frame.execute() + Frame.sync)
        let answers = try client.readToReady()
        #expect(answers.map(\.type) == ["3", "1", "2", "D", "C", "Z"])
        #expect(answers.first { $0.type == "D" }?.columns == ["3"])
        client.send(Frame.bind(statement: "never") + Frame.sync)
        #expect(try client.readToReady().first?.sqlState == "26000")
    }

    @Test func `more statements than a server keeps still work`() throws {
        let servers = try Servers.shared.get()
        let godwit = try servers.godwit(database) {
            $0.database.pool = ["size": "1", "max_prepared_statements": "10"]
        }
        let client = try WireClient(port: godwit.port, database: database)
        for number in 0..<50 {
            client.send(Frame.parse("SELECT \(number)", name: "s\(number)") + Frame.sync)
            #expect(try client.readToReady().first?.type == "1")
        }
        for number in (0..<50).reversed() {
            client.send(Frame.bind(statement: "s\(number)") + Frame.execute() + Frame.sync)
            #expect(try client.readToReady().first { $0.type == "D" }?.columns == ["\(number)"])
        }
        let kept = try client.value("SELECT count(*) FROM pg_prepared_statements").flatMap { Int($0) }
        #expect((kept ?? 99) <= 10)
    }

    @Test func `a notice reaches the client`() throws {
        let client = try connect()
        let answers = try client.query("DO $$ BEGIN RAISE NOTICE 'heard'; END $$")
        #expect(answers.first { $0.type == "N" }?.fields["M"] == "heard")
    }

    @Test func `a changed parameter is reported, kept and nobody else's`() throws {
        let servers = try Servers.shared.get()
        let godwit = try servers.godwit(database) { $0.database.pool = ["size": "1"] }
        let client = try WireClient(port: godwit.port, database: database)
        let answers = try client.query("SET TimeZone = 'Europe/Vienna'")
        #expect(answers.contains { $0.type == "S" && String(decoding: $0.body, as: UTF8.self).contains("Vienna") })
        let other = try WireClient(port: godwit.port, database: database)
        #expect(try other.value("SHOW TimeZone") != "Europe/Vienna")
        #expect(try client.value("SHOW TimeZone") == "Europe/Vienna")
    }

    @Test func `rows and queries of many megabytes pass`() throws {
        let client = try connect()
        let text = String(repeating: "x", count: 5_000_000)
        #expect(try client.value("SELECT length('\(text)')") == "5000000")
        #expect(try client.value("SELECT repeat('y', 20000000)")?.utf8.count == 20_000_000)
        let rows = try client.query("SELECT generate_series(1, 200000)")
        #expect(rows.count { $0.type == "D" } == 200_000)
    }

    @Test func `a client that reads slowly gets everything, and others go on meanwhile`() throws {
        let slow = try connect()
        slow.send(Frame.query("SELECT repeat('z', 1000) FROM generate_series(1, 100000)"))
        let other = try connect()
        for number in 0..<50 { #expect(try other.value("SELECT \(number)") == "\(number)") }
        #expect(try slow.readToReady().count { $0.type == "D" } == 100_000)
    }

    @Test func `COPY goes in and out, and an error in it ends it`() throws {
        let client = try connect()
        client.send(Frame.query("COPY t FROM STDIN"))
        #expect(try client.read()?.type == "G")
        for id in 1...1000 { client.send(Frame.message("d", Array("\(id)\trow \(id)\n".utf8))) }
        client.send(Frame.message("c"))
        #expect(try client.readToReady().first?.commandTag == "COPY 1000")

        let out = try client.query("COPY t TO STDOUT")
        #expect(out.first?.type == "H")
        #expect(out.count { $0.type == "d" } == 1000)

        client.send(Frame.query("COPY t FROM STDIN"))
        #expect(try client.read()?.type == "G")
        client.send(Frame.message("f", Frame.string("changed my mind")))
        #expect(try client.readToReady().first?.sqlState == "57014")

        client.send(Frame.query("COPY t FROM STDIN"))
        #expect(try client.read()?.type == "G")
        // Data and a late CopyDone after what the server already refuses.
        client.send(Frame.message("d", Array("no number\tx\n".utf8)) + Frame.message("d", Array("8\ty\n".utf8)))
        client.send(Frame.message("c"))
        #expect(try client.readToReady().first?.sqlState == "22P02")
        #expect(try client.value("SELECT count(*) FROM t") == "1000")
    }

    @Test func `COPY in the extended protocol ends with its Sync`() throws {
        let client = try connect()
        client.send(Frame.parse("COPY t FROM STDIN") + Frame.bind() + Frame.execute() + Frame.flush)
        #expect(try (0..<3).map { _ in try client.read()?.type } == ["1", "2", "G"])
        client.send(Frame.message("d", Array("1\tone\n".utf8)) + Frame.message("c") + Frame.sync)
        #expect(try client.readToReady().map(\.type) == ["C", "Z"])
        #expect(try client.value("SELECT v FROM t") == "one")
    }

    /// The server answers a Sync that it reads behind its error, and ignores one that it reads while it copies.
    @Test(arguments: [true, false], [["no number\tx\n"], ["no number\tx\n", "1\ta\n"], ["1\ta\n", "2\tb\n"]])
    func `a Sync in mid-COPY counts as PostgreSQL counts it, and the server has no answer left over`(
        isSimple: Bool, data: [String]
    ) throws {
        let servers = try Servers.shared.get()
        let godwit = try servers.godwit(database) { $0.database.pool = ["size": "1"] }
        let copy = isSimple
            ? Frame.query("COPY t FROM STDIN")
            : Frame.parse("COPY t FROM STDIN") + Frame.bind() + Frame.execute()
        let rows = data.flatMap { Frame.message("d", Array($0.utf8)) + Frame.sync }
        let end = Frame.message("f", Frame.string("no more")) + (isSimple ? [] : Frame.sync)
        let next = Frame.query("SELECT 'behind'")
        // What is sent at once, and what when the server has announced the COPY.
        for pieces in [[copy, rows + end, next], [copy, rows, end, next], [copy + rows + end, next]] {
            let answers = try [servers.old.port, godwit.port].map { port in
                let client = try WireClient(port: port, database: database)
                var answers = ""
                for piece in pieces {
                    client.send(piece)
                    guard piece == copy else { continue }
                    if !isSimple { client.send(Frame.flush) }
                    while let message = try client.read() {
                        answers.append(message.type)
                        if message.type == "G" { break }
                    }
                }
                while let message = try client.read() {
                    answers.append(message.type)
                    if message.columns.last == "behind" { break }
                }
                answers += String(try client.readToReady().map(\.type))
                client.close()
                return answers
            }
            #expect(answers[0] == answers[1], "\(pieces.count) pieces")
            let other = try WireClient(port: godwit.port, database: database)
            for number in 0..<3 { #expect(try other.value("SELECT \(number)") == "\(number)") }
            other.close()
        }
    }

    @Test func `what breaks a COPY off breaks it off, also where a name is not settled`() throws {
        let servers = try Servers.shared.get()
        let godwit = try servers.godwit(database) { $0.database.pool = ["size": "1"] }
        for port in [servers.old.port, godwit.port] {
            let client = try WireClient(port: port, database: database)
            client.send(Frame.parse("SELECT 1", name: "s") + Frame.query("COPY t FROM STDIN"))
            client.send(Frame.parse("SELECT 2", name: "s") + Frame.sync)
            #expect(try client.readToError() != nil)
            client.close()
            #expect(try WireClient(port: port, database: database).value("SELECT 1") == "1")
        }
    }

    @Test func `libpq that insists on protocol 3.2 gets it`() throws {
        let godwit = try Servers.shared.get().godwit(database)
        let psql = try PostgresCluster.Version.new18.programs() + "/psql"
        let conninfo = godwit.conninfo(database: database) + " min_protocol_version=3.2 max_protocol_version=latest"
        #expect(try ChildProcess.run([psql, "-XAt", "-d", conninfo, "-c", "SELECT 1"]) == "1\n")
    }

    /// Protocol 3.2 has longer keys.
    @Test(arguments: [(0, 4), (2, 32), (9999, 32)] as [(UInt32, Int)])
    func `a cancel request ends the query it is meant for, and no other`(minor: UInt32, keySize: Int) throws {
        let servers = try Servers.shared.get()
        let godwit = try servers.godwit(database) { $0.database.pool = ["size": "1"] }
        let client = try WireClient(port: godwit.port, database: database, minor: minor)
        #expect(client.cancelKey.count == 4 + keySize)
        client.send(Frame.query("SELECT pg_sleep(3600)"))
        try waitUntil {
            try servers.old.psql("""
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = '\(database)' AND state = 'active' AND query LIKE '%pg_sleep(3600)%'
                AND pid <> pg_backend_pid()
                """) == "1"
        }
        let length = UInt8(8 + client.cancelKey.count)
        let cancel: [UInt8] = [0, 0, 0, length, 0x04, 0xd2, 0x16, 0x2e] + client.cancelKey
        // Its connection ends when the server has the request, as libpq expects it.
        let canceller = try WireClient(port: godwit.port)
        canceller.send(cancel)
        #expect(try canceller.readToEnd().isEmpty)
        #expect(try client.readToReady().first { $0.type == "E" }?.sqlState == "57014")

        // The server has another owner now: the old key must not reach it.
        let other = try WireClient(port: godwit.port, database: database)
        other.send(Frame.query("SELECT pg_sleep(0.5), 'undisturbed'"))
        for _ in 0..<5 {
            let late = try WireClient(port: godwit.port)
            late.send(cancel)
            #expect(try late.readToEnd().isEmpty)
        }
        #expect(try other.readToReady().first { $0.type == "D" }?.columns.last == "undisturbed")

        let unknown = try WireClient(port: godwit.port)
        unknown.send([0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e] + [1, 2, 3, 4, 5, 6, 7, 8])
        #expect(try unknown.readToEnd().isEmpty)
        #expect(try client.value("SELECT 1") == "1")
    }
}
