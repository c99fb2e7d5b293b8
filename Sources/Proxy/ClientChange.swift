import Configuration
import PGWire
import Primitives
import Routing
import SQLAnalysis
import Sessions

/// DDL that runs on both sides (`mirror.ddl: barrier`), by the hands of the control plane: see `SchemaChange`.
extension ClientConnection {
    /// A text of its own outside of transactions goes there, and the unit stays where it is until it is answered.
    ///
    /// - Parameter bytes: the whole unit. Where the client keeps its server, a Query only.
    /// - Returns: false: it is none, or is refused as every denied unit is.
    func beginChange(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard unit.notes.denials > 0, let database, database.route.settings.mirror.ddl == .barrier else { return false }
        guard case .mirror? = unit.notes.deniedBy, unit.executes, lazy == nil, let statement = unit.notes.statement,
            statement.classification.barrier == .fits, unit.statementCount == 1,
            bytes.first == FrontendTag.query || statement.classification.statementCount == 1,
            mayLeaveServer(bytes), let text = changeText(bytes)
        else { return false }
        if server == nil, database.hold != nil {
            hold(database)
            return true
        }
        unit.startedAt = worker.now
        unit.changeBytes = bytes.count
        phase = .changing
        let rewritten = text.withUnsafeBytes { self.rewritten($0, database) } ?? text
        guard let sql = String(validating: rewritten, as: UTF8.self), !sql.utf8.contains(0), isSentInUnicode(sql) else {
            changeEnded(.failed(ErrorResponse(
                .error, .characterNotInRepertoire, "DDL that runs on both sides has to be sent in UTF-8")))
            return true
        }
        // Its sessions would not have it: names would mean other tables there.
        guard !pins.contains(.untrackedSetting) else {
            changeEnded(.failed(FollowedTransaction.hasUnknownSetting))
            return true
        }
        worker.control.post(.change(
            ChangeOrder(
                database: databaseName, user: user, statement: sql, settings: settings.statements(from: nil) ?? ""),
            worker: worker.index, client: id))
        return true
    }

    /// Whether DDL that is to run on both sides has to wait until what came before it, or a question of ours, is
    /// answered.
    func waitsForChange(
        _ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer, _ server: ServerConnection
    ) -> Bool {
        guard frame.tag == FrontendTag.query || frame.tag == FrontendTag.parse, !server.session.isQuiet, let database,
            database.followsDDL
        else { return false }
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[frame.bodyStart..<frame.end]))
        if frame.tag == FrontendTag.parse { _ = reader.cString() }
        guard let text = reader.cString(), database.analyse(text).0.classification.barrier == .fits
        else { return false }
        return waitsForAnswers(server)
    }

    /// The other side reads it as UTF-8. Words in other encodings may look like that, and be others.
    func isSentInUnicode(_ text: String) -> Bool { settings.sendsUnicode || text.utf8.allSatisfy { $0 < 0x80 } }

    /// There is no server, or it owes nothing and has nothing open.
    private func mayLeaveServer(_ bytes: UnsafeRawBufferPointer) -> Bool {
        guard let server else { return true }
        return bytes.first == FrontendTag.query && !server.isReadOnly && server.session.isQuiet
            && server.session.status == .idle && server.session.isAtBatchStart
    }

    /// The statement of a Query; of a batch when that prepares, binds, perhaps describes and executes it once without
    /// parameters or names.
    private func changeText(_ bytes: UnsafeRawBufferPointer) -> [UInt8]? {
        var text: [UInt8]?
        var answer: [UInt8] = []
        var (binds, executes) = (0, 0)
        var offset = 0
        while let header = FrameHeader.parse(bytes, at: offset), offset + header.frameSize <= bytes.count {
            var reader = BodyReader(UnsafeRawBufferPointer(
                rebasing: bytes[(offset + FrameHeader.size)..<(offset + header.frameSize)]))
            switch header.tag {
            case FrontendTag.query:
                guard let query = reader.cString(), reader.isAtEnd else { return nil }
                return Array(query)
            case FrontendTag.parse:
                guard text == nil, reader.cString()?.isEmpty == true, let query = reader.cString() else { return nil }
                text = Array(query)
                answer += [BackendTag.parseComplete, 0, 0, 0, 4]
            case FrontendTag.bind:
                guard text != nil, binds == 0, reader.cString()?.isEmpty == true, reader.cString()?.isEmpty == true
                else { return nil }
                binds += 1
                answer += [BackendTag.bindComplete, 0, 0, 0, 4]
            case FrontendTag.describe:
                // Of the portal: a statement's parameters are not ours to know.
                guard binds == 1, executes == 0, reader.byte() == UInt8(ascii: "P") else { return nil }
                answer += [BackendTag.noData, 0, 0, 0, 4]
            case FrontendTag.execute:
                guard binds == 1, executes == 0 else { return nil }
                executes += 1
            case FrontendTag.sync: break
            default: return nil
            }
            offset += header.frameSize
        }
        guard executes == 1 else { return nil }
        unit.changeAnswer = answer
        return text
    }

    /// - Parameter outcome: `.noticed` with the commands' tags, a line each: both sides have it.
    func changeEnded(_ outcome: ControlOutcome) {
        guard phase == .changing, !isClosingAfterFlush, let database else { return }
        if let followed, let question = followed.question { return followAnswered(followed, question, outcome) }
        database.counters.queries += 1
        var writer = MessageWriter()
        switch outcome {
        case .noticed(let tags):
            // From now on this client and its user read on NEW only what includes it.
            let taking = database.route.horizon.taking
            batchNeeded = max(batchNeeded, taking + 1)
            if let identity = (unitKey ?? sessionKey)?.identity {
                database.route.stamps.stamp(identity.hash, taking: taking)
            }
            database.noteSchemaChange()
            if unit.changeAnswer.isEmpty { dropUnnamedLocally() }
            writer.raw(unit.changeAnswer)
            for tag in tags.split(separator: "\n") { writer.commandComplete(String(tag)) }
        case .failed(let error): error.write(to: &writer)
        case .done, .refused, .table:
            ErrorResponse(.error, .cannotConnectNow, "Godwit takes no DDL now", hint: "Try again.").write(to: &writer)
        }
        writer.readyForQuery(.idle)
        skipUnit(unit.changeBytes)
        if server == nil {
            phase = .idle
            startNextUnit()
        } else {
            phase = .leased
            // Its server has said nothing meanwhile.
            idleSince = worker.now
            renewUnit(isOpen: false)
            transaction = TransactionFacts()
        }
        send(writer.bytes)
        if worker.isDraining { drain() }
        resumeSoon()
    }

    /// Why it does not run on both sides.
    var refusalOfChange: ErrorResponse {
        if unit.notes.statement?.classification.barrier == .unfit, unit.notes.statement?.kind == .unknown {
            return ErrorResponse(
                .error, .featureNotSupported,
                "this statement cannot run on both sides of database \"\(databaseName)\": Godwit does not know it",
                detail: "It has a form that PostgreSQL 15 does not have, a mistake, more than 64 KiB, or no UTF-8.",
                hint: "Change both sides directly and run godwit prepare, or send what is long in several queries.")
        }
        if unit.notes.statement?.classification.barrier == .unfit {
            return ErrorResponse(
                .error, .featureNotSupported,
                "this statement cannot run on both sides of database \"\(databaseName)\"",
                detail: """
                    It brings rows, or touches triggers, rules, partitions, inheritance or where rows are kept; or it \
                    comes in one text with what is no DDL.
                    """,
                hint: """
                    CREATE TABLE and INSERT in place of CREATE TABLE AS; BEGIN, COMMIT and what writes rows in texts \
                    of their own. Else change both sides directly and run godwit prepare, or set mirror.ddl to allow.
                    """)
        }
        return ErrorResponse(
            .error, SQLState("25001"),
            "while database \"\(databaseName)\" is mirrored, DDL is sent by itself, or between BEGIN and COMMIT",
            detail: "It runs on both sides then (mirror.ddl: barrier).",
            hint: """
                Outside of transactions it is one query, or one batch that prepares, binds and executes it and has \
                nothing else, not as a named statement; several in one query are one transaction. A client that keeps \
                its server (SHOW PINS, pool_mode session) sends a query, or BEGIN before it.
                """)
    }
}
