import Configuration
import Console
import Logging
import PGWire
import Primitives
import Reactor

/// What one console connection has said and waits for. Its client's; other clients have none.
final class ConsoleSession {
    struct Portal {
        var text: String
        var formats: ConsoleReport.Formats
        /// Of a SHOW that was executed in part.
        var table: ConsoleReport?
        var rowsSent = 0
    }

    enum Reply {
        /// The whole answer, with ReadyForQuery.
        case simple
        /// Rows and CommandComplete; rows at most, 0 for all.
        case execute(portal: String, rowsMax: Int)
    }

    /// Statements and portals that one console may name.
    static let namesMax = 1000

    /// A user of `admin.users`; others, of `admin.stats_users`, may look only.
    var isAdmin = false
    /// Connected under PgBouncer's own name: tables are exactly PgBouncer's.
    var speaksPgBouncer = false
    var isSkippingToSync = false
    var statements: [String: String] = [:]
    var portals: [String: Portal] = [:]
    /// What is under way, while other threads work on it.
    var tag = ""
    var reply = Reply.simple
}

extension ClientConnection {
    /// Console commands, as simple queries or by Parse, Bind and Execute without parameters; one at a time.
    func processConsole(_ bytes: UnsafeRawBufferPointer) -> Int {
        if isStuffed { return 0 }
        guard let header = FrameHeader.parse(bytes, at: 0) else { return 0 }
        if let error = header.frontendError() {
            violated(error)
            return bytes.count
        }
        if header.frameSize > ConsoleParser.commandBytesMax + FrameHeader.size {
            violated(.lengthOutOfRange(tag: header.tag, length: header.length))
            return bytes.count
        }
        if bytes.count < header.frameSize { return 0 }
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size..<header.frameSize]))
        switch header.tag {
        case FrontendTag.query:
            console.reply = .simple
            // As in PostgreSQL a simple query ends the unnamed statement and all portals.
            console.statements[""] = nil
            console.portals = [:]
            run(reader.cString().map { String(wire: $0) } ?? "")
        case FrontendTag.terminate:
            close()
        case FrontendTag.sync:
            console.isSkippingToSync = false
            console.portals = [:]
            var writer = MessageWriter()
            writer.readyForQuery(.idle)
            send(writer.bytes)
        case FrontendTag.flush:
            break
        case FrontendTag.parse, FrontendTag.bind, FrontendTag.describe, FrontendTag.execute, FrontendTag.close:
            if !console.isSkippingToSync { extended(header.tag, &reader) }
        default:
            violated(.unexpectedMessage(tag: header.tag))
        }
        return header.frameSize
    }

    /// It does not read what it has asked of us; nothing else is done for it before it does.
    var isStuffed: Bool { server == nil && stream.count > SendQueue.highWater }

    /// There is room again for answers: whoever makes them goes on, a server or we ourselves.
    func sourceGoesOn() {
        // Its thread has it, until the end of the batch if it is closed.
        withUncounted(server) { $0.resumeReading() }
        if server == nil ? hasParkedBytes : isReadingPaused { worker.resumeLater(self) }
    }

    // MARK: the extended protocol

    private func extended(_ tag: UInt8, _ reader: inout BodyReader) {
        do throws(ErrorResponse) {
            switch tag {
            case FrontendTag.parse: try parse(&reader)
            case FrontendTag.bind: try bind(&reader)
            case FrontendTag.describe: try describe(&reader)
            case FrontendTag.execute: try execute(&reader)
            default: try closeName(&reader)
            }
        } catch {
            skip(error)
        }
    }

    private func skip(_ error: ErrorResponse) {
        console.isSkippingToSync = true
        send(error.encoded)
    }

    private static let malformed = ErrorResponse(.error, .protocolViolation, "a malformed message")

    private func name(_ reader: inout BodyReader) throws(ErrorResponse) -> String {
        guard let name = reader.cString() else { throw Self.malformed }
        return String(wire: name)
    }

    private func parse(_ reader: inout BodyReader) throws(ErrorResponse) {
        let (name, text) = (try name(&reader), try name(&reader))
        if !name.isEmpty && console.statements[name] != nil {
            throw ErrorResponse(.error, SQLState("42P05"), "prepared statement \"\(name)\" already exists")
        }
        try bounded(console.statements.count)
        do { _ = try ConsoleParser.parse(text) } catch { throw refusal(error) }
        console.statements[name] = text
        queueAnswer(BackendTag.parseComplete)
        flushAnswers()
    }

    private func bounded(_ count: Int) throws(ErrorResponse) {
        if count < ConsoleSession.namesMax { return }
        throw ErrorResponse(
            .error, .configurationLimitExceeded, "a console may name \(ConsoleSession.namesMax) statements at most")
    }

    private func bind(_ reader: inout BodyReader) throws(ErrorResponse) {
        let (portal, statement) = (try name(&reader), try name(&reader))
        guard let text = console.statements[statement] else { throw unknown("prepared statement", statement) }
        guard let codes = reader.int16(), codes >= 0 else { throw Self.malformed }
        for _ in 0..<codes { _ = reader.int16() }
        guard let parameters = reader.int16() else { throw Self.malformed }
        if parameters != 0 {
            throw ErrorResponse(
                .error, .featureNotSupported, "the console takes no parameters",
                hint: "Write the values into the command.")
        }
        guard let count = reader.int16(), count >= 0 else { throw Self.malformed }
        var wanted: [Int16] = []
        for _ in 0..<count {
            guard let code = reader.int16() else { throw Self.malformed }
            wanted.append(code)
        }
        guard let formats = ConsoleReport.Formats(wanted) else { throw Self.malformed }
        if let table = shape(of: text), !formats.fits(columns: table.columns.count) { throw Self.malformed }
        try bounded(console.portals.count)
        console.portals[portal] = ConsoleSession.Portal(text: text, formats: formats)
        queueAnswer(BackendTag.bindComplete)
        flushAnswers()
    }

    private func unknown(_ what: String, _ name: String) -> ErrorResponse {
        ErrorResponse(.error, .invalidStatementName, "\(what) \"\(name)\" does not exist")
    }

    private func describe(_ reader: inout BodyReader) throws(ErrorResponse) {
        let kind = reader.byte()
        let name = try name(&reader)
        var writer = MessageWriter()
        var formats = ConsoleReport.Formats.text
        var text = console.statements[name]
        if kind == UInt8(ascii: "P") {
            text = console.portals[name]?.text
            formats = console.portals[name]?.formats ?? formats
        } else {
            writer.message(BackendTag.parameterDescription) { $0.int16(0) }
        }
        guard let text else { throw unknown(kind == UInt8(ascii: "P") ? "portal" : "prepared statement", name) }
        if let table = shape(of: text) {
            table.describe(in: formats, to: &writer)
        } else {
            writer.message(BackendTag.noData) { _ in }
        }
        send(writer.bytes)
    }

    /// The table that the command answers with, without rows; nil: none.
    private func shape(of text: String) -> ConsoleReport? {
        guard let command = try? ConsoleParser.parse(text) else { return nil }
        switch command {
        case .show(.help) where console.speaksPgBouncer: return nil
        case .show(let subject): return worker.table(subject, reports: [], speaksPgBouncer: console.speaksPgBouncer)
        case .showSetting(let name, _): return ConsoleReport([.init(name)])
        case .switchOver: return ConsoleReport(SwitchCommand.columns)
        default: return nil
        }
    }

    private func execute(_ reader: inout BodyReader) throws(ErrorResponse) {
        let name = try name(&reader)
        guard let limit = reader.int32() else { throw Self.malformed }
        guard let portal = console.portals[name] else { throw unknown("portal", name) }
        console.reply = .execute(portal: name, rowsMax: max(0, Int(limit)))
        if let table = portal.table { return answer(table) }
        run(portal.text)
    }

    private func closeName(_ reader: inout BodyReader) throws(ErrorResponse) {
        let kind = reader.byte()
        let name = try name(&reader)
        if kind == UInt8(ascii: "P") { console.portals[name] = nil } else { console.statements[name] = nil }
        queueAnswer(BackendTag.closeComplete)
        flushAnswers()
    }

    private func flushAnswers() { send([]) }

    // MARK: commands

    private func run(_ text: String) {
        let command: ConsoleCommand
        do { command = try ConsoleParser.parse(text) } catch { return fail(refusal(error)) }
        if !command.isReadOnly && !console.isAdmin {
            return fail(ErrorResponse(
                .error, .insufficientPrivilege, "admin access needed for \(command.tag)",
                detail: "User \"\(user)\" is in admin.stats_users, which may look only."))
        }
        console.tag = command.tag
        switch command {
        case .show(.help) where console.speaksPgBouncer:
            // As PgBouncer does it: pgcli shows nothing else.
            let lines = ConsoleHelp.lines.map { "\n\t\($0.command)" }.joined()
            complete("SHOW", notice: ErrorResponse(.notice, SQLState("00000"), "Console usage", detail: lines + "\n"))
        case .show(let subject):
            phase = .consoleWaiting
            worker.consoleRequests.start(subject, for: id, on: worker)
        case .showSetting(let name, let value):
            var table = ConsoleReport([.init(name)])
            table.append([value])
            answer(table)
        case .reload: askControl(.reload)
        case .set(let key, let value): askControl(.set(key: key, value: value))
        case .reads(let database, let hundredths): askControl(.reads(database: database, hundredths: hundredths))
        case .shadow(let database, let hundredths): askControl(.shadow(database: database, hundredths: hundredths))
        case .mirror(let database, let order): askControl(.mirror(database: database, order))
        case .force(let database, let order): askControl(.force(database: database, order))
        case .gate(let order): askControl(.gate(order))
        case .capture(let database, let order): askControl(.capture(database: database, order))
        case .switchOver(let order): askControl(.switchOver(order))
        case .killClient(let name): killClient(name)
        case .empty:
            queueAnswer(BackendTag.emptyQueryResponse)
            complete(nil)
        case .ignored(let tag): complete(tag)
        }
    }

    private func askControl(_ request: ControlRequest) {
        phase = .consoleWaiting
        noteOrder(request.words, request.eventKind, database: request.database)
        worker.control.post(.request(request, worker: worker.index, client: id))
    }

    /// Who has ordered what: before it is done, so that it stands before what comes of it.
    private func noteOrder(_ words: String, _ kind: EventRecord.Kind, database: String = "") {
        worker.events.append(EventRecord(
            kind, database: database, cause: "\(words), by user \"\(user)\" from \(address.host)"))
    }

    /// By the name or number that SHOW CLIENTS gives.
    private func killClient(_ name: String) {
        guard let handle = ClientHandle(name, threads: worker.peers.count) else {
            return fail(ErrorResponse(
                .error, .invalidParameterValue, "\"\(name)\" is no client",
                hint: "SHOW CLIENTS has the id, a number, and ptr, as in c0.17."))
        }
        phase = .consoleWaiting
        noteOrder("KILL_CLIENT \(name)", .order)
        worker.peers[handle.worker].post(.killClient(handle.client, from: worker.index, console: id))
    }

    private func refusal(_ failure: ConsoleParser.Failure) -> ErrorResponse {
        switch failure {
        case .unknownCommand(let verb):
            // PgBouncer's state: by it tools such as pgcli tell a console from a database.
            ErrorResponse(
                .error, .protocolViolation, "unknown console command \"\(verb)\"",
                hint: "SHOW HELP lists the commands.")
        case .unknownSubject(let subject):
            ErrorResponse(
                .error, .protocolViolation, "there is no SHOW \(subject)",
                hint: "SHOW \(ConsoleCommand.Subject.usage)")
        case .usage(let form):
            ErrorResponse(.error, .syntaxError, "the command's form is: \(form)")
        }
    }

    // MARK: answers

    private func fail(_ error: ErrorResponse) {
        guard case .simple = console.reply else { return skip(error) }
        var writer = MessageWriter()
        error.write(to: &writer)
        writer.readyForQuery(.idle)
        send(writer.bytes)
    }

    /// - Parameter tag: nil where something else than CommandComplete was the answer.
    private func complete(_ tag: String?, notice: ErrorResponse? = nil) {
        var writer = MessageWriter()
        notice?.write(to: &writer)
        if let tag { writer.commandComplete(tag) }
        if case .simple = console.reply { writer.readyForQuery(.idle) }
        send(writer.bytes)
    }

    private func answer(_ table: ConsoleReport) {
        var writer = MessageWriter(reserving: 4096)
        guard case .execute(let name, let rowsMax) = console.reply, var portal = console.portals[name] else {
            table.write(to: &writer)
            return send(writer.bytes)
        }
        let end = rowsMax == 0 ? table.rows.count : min(table.rows.count, portal.rowsSent + rowsMax)
        table.writeRows(portal.rowsSent..<end, in: portal.formats, to: &writer)
        portal.table = table
        portal.rowsSent = end
        console.portals[name] = portal
        if end < table.rows.count {
            writer.message(BackendTag.portalSuspended) { _ in }
        } else {
            writer.commandComplete("SHOW")
        }
        send(writer.bytes)
    }

    func consoleAnswered(_ table: ConsoleReport) {
        guard phase == .consoleWaiting else { return }
        phase = .console
        answer(table)
        resumeSoon()
    }

    func controlDone(_ outcome: ControlOutcome) {
        if phase == .changing { return changeEnded(outcome) }
        guard phase == .consoleWaiting else { return }
        phase = .console
        switch outcome {
        case .done: complete(console.tag)
        case .noticed(let words):
            complete(console.tag, notice: ErrorResponse(.notice, SQLState("00000"), words))
        case .refused(let reason):
            fail(ErrorResponse(.error, .invalidParameterValue, reason, hint: "Nothing was changed."))
        case .failed(let error): fail(error)
        case .table(let table): answer(table)
        }
        resumeSoon()
    }
}

/// A client by what SHOW CLIENTS calls it. Immutable, any thread.
struct ClientHandle: Equatable {
    let worker: Int
    let client: ClientID

    init(worker: Int, client: ClientID) {
        self.worker = worker
        self.client = client
    }

    /// `c0.17`: client 17 of reactor 0. A number: the same two in one.
    init?(_ text: String, threads: Int) {
        let parts = text.drop { $0 == "c" || $0 == "C" }.split(separator: ".", omittingEmptySubsequences: false)
            .map { UInt64($0) }
        switch (parts.count, parts.first ?? nil, parts.last ?? nil) {
        case (1, let number?, _):
            self.init(worker: Int(number % UInt64(threads)), client: ClientID(number / UInt64(threads)))
        case (2, let worker?, let client?):
            guard worker < UInt64(threads) else { return nil }
            self.init(worker: Int(worker), client: ClientID(client))
        default: return nil
        }
    }

    var pointer: String { "c\(worker).\(client.value)" }
    func number(threads: Int) -> UInt64 { client.value * UInt64(threads) + UInt64(worker) }
}
