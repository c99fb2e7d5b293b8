import Configuration
import PGWire
import Pooling
import Primitives
import Reactor
import Routing
import SQLAnalysis
import Sessions

/// The way of most units: one plain read in one of the forms of `LoneStatement`, or several in one batch, outside of
/// transactions, of a client about whom nothing is special. It does what the general way does with such a unit and
/// leaves everything as that leaves it, in one piece and with no question whose answer is known; so the general way can
/// take over at any point, and does wherever something is not as expected. `Unit.lone` is set for as long as nothing
/// else has touched the unit.
extension ClientConnection {
    // MARK: from the client

    /// - Returns: bytes that are done with; nil: it is no such unit, and nothing was done.
    func processLone(_ bytes: UnsafeRawBufferPointer) -> Int? {
        if worker.analysedAhead != nil { worker.analysedAhead = nil }
        // The client has it from its login to its own end, which the batch sees.
        return withUncounted(database) { processLone(bytes, $0) } ?? nil
    }

    @inline(__always)
    private func processLone(_ bytes: UnsafeRawBufferPointer, _ database: DatabaseState) -> Int? {
        guard mayGoAlone(database), let lone = LoneStatement(firstOf: bytes, packetMax: worker.packetMax)
        else { return nil }
        var rest: [LoneStatement] = []
        defer { worker.giveBack(&rest) }
        if !noteLone(lone, &rest, bytes, database) { return nil }
        unit.byteCount = bytes.count
        route(lone: database)
        guard phase == .leased, unit.lone != nil, server != nil else { return 0 }
        // Its thread has it, until the end of the batch if it is closed.
        if withUncounted(server, { forwardLone(lone, rest, bytes, $0, database) }) == true { return bytes.count }
        unit.lone = nil
        return 0
    }

    /// - Parameter rest: gets what is behind the first statement, in memory of the thread's: mostly nothing is, and
    ///   none is taken.
    @inline(__always)
    private func findRest(
        of lone: LoneStatement, in bytes: UnsafeRawBufferPointer, _ rest: inout [LoneStatement]
    ) -> Bool {
        if lone.isWhole(of: bytes) { return true }
        rest = worker.takeSpareStatements()
        return lone.findRest(in: bytes, packetMax: worker.packetMax, &rest)
    }

    @inline(__always)
    private func mayGoAlone(_ database: DatabaseState) -> Bool {
        database.takesLoneReads && server == nil && lazy == nil && (unitPlace == nil || unit.isNew)
            && scanner.isAtStart && pins.isEmpty && !isOfSessionMode && isTextTrusted && !isForcedToAuthority
            && !hasChangedSchema && !names.areOwn && names.boundDrops.isEmpty && unnamedBefore.isEmpty
            && changes.isEmpty && restOfCut == nil && startupRestores == 0
    }

    /// What `dispatch` does.
    @inline(__always)
    private func route(lone database: DatabaseState) {
        guard database.hold == nil, let side = side(ofLone: database) else { return dispatch() }
        unit.startedAt = worker.now
        phase = .waiting
        waitForServer(side)
    }

    /// - Returns: nil: it may be the other one, which takes more to decide on; nothing was counted.
    @inline(__always)
    private func side(ofLone database: DatabaseState) -> Side? {
        let identity = unit.key == nil ? sessionKey?.identity : (unitKey ?? sessionKey)?.identity
        // The database has it: only a reload, a message of its own, brings another one.
        guard let decision = withUncounted(database.route, {
            Router.decide(plainRead: identity, $0.authority, $0.table)
        }) else { return nil }
        database.count(decision, isRead: true)
        database.count(identity)
        return decision.side
    }

    /// What `note` keeps of the unit's messages.
    ///
    /// - Parameters:
    ///   - lone: the first statement; what is behind it is looked at only if that is a plain read.
    ///   - rest: gets what is behind it.
    private func noteLone(
        _ lone: LoneStatement, _ rest: inout [LoneStatement], _ bytes: UnsafeRawBufferPointer,
        _ database: DatabaseState
    ) -> Bool {
        let statement: AnalysedStatement
        let key: StatementKey?
        var id: StatementID?
        switch lone.form {
        case .query, .parsed:
            if lone.form == .parsed && lone.namesOwnTypes { return false }
            // An analysis makes no other cache.
            let template = withUncounted(database.analysis) { $0.template(of: lone.text) }
            // Most are like a text that was seen before, and nobody's.
            if let template, lone.isWhole(of: bytes),
                template._withUnsafeGuaranteedRef({ notePlain(lone, $0) })
            {
                return true
            }
            (statement, key) = database.analyse(lone.text, as: template)
        case .bound:
            if lone.name.isEmpty {
                renewUnnamed(database)
                guard let unnamed else { return false }
                (statement, key) = (unnamed.analysis, unnamed.key)
            } else {
                id = statements.find(lone.name)
                guard let id else { return false }
                (statement, key) = database.analysis(of: id)
            }
        }
        var last: (AnalysedStatement, StatementKey?)?
        var isLone = statement.isPlainRead && findRest(of: lone, in: bytes, &rest)
        if isLone && !rest.isEmpty {
            last = lastOfLone(lone, rest, statement, key, database)
            isLone = last != nil
        }
        if !isLone {
            if lone.form != .bound { worker.analysedAhead = (statement, key) }
            return false
        }
        if lone.form == .parsed {
            if let last { unit.unnamed = last } else { unit.unnamed = (statement, key) }
        }
        let hasBoundKey = statement.hasBoundKey
        unit.addLone(lone, id, consume statement, key, count: 1 + rest.count)
        if hasBoundKey { noteLoneKey(lone, database) }
        return true
    }

    /// What `noteLone` does with the only statement of a unit, where it has no key.
    @inline(__always)
    private func notePlain(_ lone: LoneStatement, _ template: TemplateTable.Template) -> Bool {
        if template.hasKey || !template.statement.isPlainRead { return false }
        if lone.form == .parsed { unit.unnamed = (template.statement, nil) }
        unit.addLone(lone, nil, template.statement, nil, count: 1)
        return true
    }

    /// Of a unit with several statements.
    ///
    /// - Returns: the last one; nil: one of those behind the first is no plain read, or any has a key of its own, or
    ///   may have a shape that NEW must not answer.
    private func lastOfLone(
        _ first: LoneStatement, _ rest: [LoneStatement], _ statement: AnalysedStatement, _ key: StatementKey?,
        _ database: DatabaseState
    ) -> (AnalysedStatement, StatementKey?)? {
        if key != nil || statement.hasBoundKey || database.shapes.hasDemoted { return nil }
        renewUnnamed(database)
        var last: (statement: AnalysedStatement, key: StatementKey?) = (statement, key)
        var previous = first
        for next in rest {
            // Most pipelines send one text, or execute one statement, again and again.
            if next.isOfSameStatement(as: previous) { continue }
            previous = next
            if next.form == .parsed {
                if next.namesOwnTypes { return nil }
                last = database.analyse(next.text)
            } else if let id = statements.find(next.name) {
                last = database.analysis(of: id)
            } else if let unnamed, next.name.isEmpty {
                last = (unnamed.analysis, unnamed.key)
            } else {
                return nil
            }
            if !last.statement.isPlainRead || last.key != nil || last.statement.hasBoundKey { return nil }
        }
        return last
    }

    private func noteLoneKey(_ lone: LoneStatement, _ database: DatabaseState) {
        guard let statement = unit.notes.statement else { return }
        if lone.form == .parsed {
            var types = BodyReader(lone.parseBody)
            _ = types.cString()
            unit.notes.noteParse(lone.name, statement, unit.key, types: types)
            return noteKey(statement, unit.key, BodyReader(lone.values), types: ParameterTypes(types), database)
        }
        let parseBody = unit.loneStatement.map { database.statements[$0].parseBody } ?? unnamed?.parseBody
        noteKey(statement, unit.key, BodyReader(lone.values), parseBody: parseBody ?? [], database)
    }

    /// What `granted` and `begin` do, where the server's session is as the client's already.
    ///
    /// - Returns: false when it has to be set up first; nothing was done then.
    @inline(__always)
    func beginLone(on server: ServerConnection) -> Bool {
        guard server.hasSettings(of: self) else { return false }
        phase = .leased
        isHolding = server.isReadOnly
        // Where the bytes are looked at just now they go on there.
        if !isProcessing { forwardKept(server) }
        return true
    }

    /// The unit has a server: it is given the bytes where they are kept.
    private func forwardKept(_ server: ServerConnection) {
        guard database != nil, inbox.count == unit.byteCount else {
            unit.lone = nil
            return resumeSoon()
        }
        var kept: [UInt8] = []
        swap(&kept, &inbox)
        let isForwarded = kept.withUnsafeBytes { bytes -> Bool in
            var rest: [LoneStatement] = []
            defer { worker.giveBack(&rest) }
            guard let lone = LoneStatement(firstOf: bytes, packetMax: worker.packetMax), lone.form == unit.lone,
                findRest(of: lone, in: bytes, &rest)
            else { return false }
            // The client has it, as in `processLone`.
            return withUncounted(database) { forwardLone(lone, rest, bytes, server, $0) } == true
        }
        if isForwarded {
            worker.spareBuffers.giveBack(&kept)
            return adjustReading()
        }
        swap(&kept, &inbox)
        unit.lone = nil
        resumeSoon()
    }

    /// - Returns: false when the server needs something else first; nothing was done then.
    private func forwardLone(
        _ lone: LoneStatement, _ rest: [LoneStatement], _ bytes: UnsafeRawBufferPointer, _ server: ServerConnection,
        _ database: DatabaseState
    ) -> Bool {
        var hasNames = false
        if lone.form == .bound { guard isPrepared(lone, rest, server, &hasNames) else { return false } }
        unit.byteCount = 0
        if isHolding {
            replay.removeAll(keepingCapacity: true)
            replay.append(contentsOf: bytes)
        }
        transaction.isOpen = true
        transaction.startedAt = unit.startedAt
        var definition: UInt32 = 0
        switch lone.form {
        case .query:
            unnamed = nil
            lastUnnamedChange = statements.nextNumber()
            server.unnamedToken = 0
        case .parsed:
            definition = keepLone(lone, rest, server, database)
        case .bound:
            break
        }
        server.session.sentLone(
            lone.form, isDescribed: lone.isDescribed, count: 1 + rest.count, definition: definition)
        if hasNames {
            sendLone(lone, rest, bytes, server, database)
        } else {
            server.send(bytes)
        }
        return true
    }

    /// Whether the server has all that the unit binds.
    ///
    /// - Parameter hasNames: becomes true where it knows some of it by another name than the client.
    private func isPrepared(
        _ first: LoneStatement, _ rest: [LoneStatement], _ server: ServerConnection, _ hasNames: inout Bool
    ) -> Bool {
        if !isPrepared(first, unit.loneStatement, server, &hasNames) { return false }
        for lone in rest { if !isPrepared(lone, nil, server, &hasNames) { return false } }
        return true
    }

    /// - Parameter known: what it binds, where that has been looked up.
    @inline(__always)
    private func isPrepared(
        _ lone: LoneStatement, _ known: StatementID?, _ server: ServerConnection, _ hasNames: inout Bool
    ) -> Bool {
        if let id = known ?? statements.find(lone.name) {
            hasNames = true
            return server.preparedIn.isEmpty && server.statements.use(id, by: settings)
        }
        guard let unnamed, lone.name.isEmpty else { return false }
        return server.unnamedToken == unnamed.token && server.unnamedPreparedIn == nil
    }

    /// What the unit's Parses leave.
    ///
    /// - Returns: the number of the first; those behind it follow.
    private func keepLone(
        _ first: LoneStatement, _ rest: [LoneStatement], _ server: ServerConnection, _ database: DatabaseState
    ) -> UInt32 {
        let definition = statements.nextNumber()
        lastUnnamedChange = definition
        var last = first
        var body: [UInt8]?
        for next in rest {
            let kept = body ?? Array(last.parseBody)
            let number = statements.nextNumber()
            unnamedBefore.append(UnnamedChange(
                change: number, previousChange: lastUnnamedChange, statement: (kept, worker.nextToken()),
                batch: server.session.batchesSent))
            lastUnnamedChange = number
            // One array for as many as say the same.
            body = next.parseBody.hasSameBytes(as: last.parseBody) ? kept : nil
            last = next
        }
        keepUnnamed(last.parseBody, last.text, database)
        server.unnamedToken = unnamed?.token ?? 0
        server.unnamedPreparedIn = nil
        return definition
    }

    /// With the names that the server knows the statements by.
    private func sendLone(
        _ first: LoneStatement, _ rest: [LoneStatement], _ bytes: UnsafeRawBufferPointer, _ server: ServerConnection,
        _ database: DatabaseState
    ) {
        // Not longer than this, whatever the names are. (A closure, as room on the stack needs it, would count
        // references to all that is used in it.)
        let sizeMax = bytes.count + (1 + rest.count) * (1 + StatementRegistry.serverNameMax)
        let isShort = sizeMax <= worker.renamed.count
        let message = isShort ? worker.renamed : .allocate(byteCount: sizeMax, alignment: 1)
        defer { if !isShort { message.deallocate() } }
        var (end, sent) = (0, 0)
        func write(_ range: UnsafeRawBufferPointer) {
            if range.isEmpty { return }
            UnsafeMutableRawBufferPointer(rebasing: message[end..<end + range.count]).copyMemory(from: range)
            end += range.count
        }
        func write(_ lone: LoneStatement, _ known: StatementID?) {
            guard let id = known ?? statements.find(lone.name) else { return }
            write(UnsafeRawBufferPointer(rebasing: bytes[sent..<lone.bindStart]))
            // The registry has it.
            withUncounted(database.statements[id]) { statement in
                message[end] = FrontendTag.bind
                let length = UInt32(4 + 1 + statement.serverName.count + lone.values.count)
                message.storeBytes(of: length.bigEndian, toByteOffset: end + 1, as: UInt32.self)
                // Of the portal.
                message[end + 5] = 0
                end += 6
                statement.serverName.withUnsafeBytes { write($0) }
            }
            write(lone.values)
            sent = lone.bindEnd
        }
        write(first, unit.loneStatement)
        for lone in rest { write(lone, nil) }
        write(UnsafeRawBufferPointer(rebasing: bytes[sent...]))
        server.send(UnsafeRawBufferPointer(rebasing: message[..<end]))
    }

    // MARK: from the server

    /// The unit's whole answer has come, and the server has noted it.
    func loneAnswered(_ answer: LoneAnswer, _ bytes: UnsafeRawBufferPointer, on server: ServerConnection) {
        // The client has it, as in `processLone`.
        withUncounted(database) { loneAnswered(answer, bytes, server, $0) }
    }

    @inline(__always)
    private func loneAnswered(
        _ answer: LoneAnswer, _ bytes: UnsafeRawBufferPointer, _ server: ServerConnection, _ database: DatabaseState
    ) {
        stopHolding()
        ledger.note(.idle)
        unit.notes.noteRows(answer.tag)
        let micros = worker.now.microseconds(since: unit.startedAt)
        database.counters.queries &+= 1
        database.counters.queryMicros &+= micros
        database.counters.transactions &+= 1
        database.counters.transactionMicros &+= micros
        database.times.addLone(micros, server.side)
        // What `noteEnd` does.
        keysSettled(isRolledBack: false)
        if unit.statementCount == 1 {
            // The unit has it until it is over.
            withUncounted(unit.notes.statement) { noteRead($0, on: server.side, micros: micros, database) }
        }
        worker.answered(database, server.side, isProbe: unit.isProbe)
        if !server.isReadOnly { stampReads(database) }
        server.unnamedPreparedIn = nil
        server.statements.settle()
        transaction.isOpen = false
        transaction.startedAt = MonotonicInstant(nanoseconds: 0)
        if !unnamedBefore.isEmpty { unnamedBefore.removeAll(keepingCapacity: true) }
        unit.removeLone()
        sendFromServer(bytes)
        if hasEnded { worker.resumeLater(self) }
        if phase != .leased { return }
        self.server = nil
        phase = .idle
        idleSince = worker.now
        giveBackUnit()
        scanner = UnitScanner(packetMax: worker.packetMax)
        server.release()
        if worker.isDraining { return drain() }
        if hasParkedBytes { resumeSoon() }
    }
}

extension Worker {
    /// Whoever takes it gives it back, before the bytes go that its statements lie in.
    fileprivate func takeSpareStatements() -> [LoneStatement] {
        var taken: [LoneStatement] = []
        swap(&taken, &spareStatements)
        return taken
    }

    fileprivate func giveBack(_ statements: inout [LoneStatement]) {
        if statements.capacity == 0 { return }
        statements.removeAll(keepingCapacity: true)
        swap(&statements, &spareStatements)
    }
}

extension Unit {
    /// Nothing was noted of it, and it is not run again.
    var isNew: Bool {
        statementCount == 0 && !executes && !isStreamed && !isReplay && !hasWaited && !hasRetriedSetup
    }

    /// What `add` and `note` do with statements that are plain reads, and their messages up to a Sync.
    ///
    /// - Parameters:
    ///   - first: the first of so many.
    ///   - id: what it binds, where that has a name.
    ///   - statement: the first.
    ///   - key: of all.
    mutating func addLone(
        _ first: LoneStatement, _ id: StatementID?, _ statement: consuming AnalysedStatement, _ key: StatementKey?,
        count: Int
    ) {
        lone = first.form
        isLoneDescribed = first.isDescribed
        if first.form != .query {
            loneStatement = id
            binds = true
            executeCount = count
            statementsAtFirstExecute = 1
            firstExecuteEnd = first.executeEnd
        }
        if first.form == .parsed {
            parsesUnnamed = true
            parsesUnnamedAgain = count > 1
        }
        executes = true
        statementCount = count
        kind = .read
        borders.appendRead()
        self.key = key
        notes.addPlainRead(consume statement)
        session.noteBatchEnd()
    }

    /// The unit is as new: all that is set while `lone` is.
    @inline(__always) mutating func removeLone() {
        lone = nil
        byteCount = 0
        executes = false
        statementCount = 0
        kind = .empty
        borders = .none
        key = nil
        notes.removePlainRead()
        session.removeBatchEnd()
        startedAt = MonotonicInstant(nanoseconds: 0)
        isProbe = false
        if !binds { return }
        loneStatement = nil
        // Of a value that is none, or cannot be read: see `noteKey`.
        hasKeyless = false
        binds = false
        executeCount = 0
        statementsAtFirstExecute = 0
        firstExecuteEnd = 0
        parsesUnnamed = false
        parsesUnnamedAgain = false
        if unnamed != nil { unnamed = nil }
    }
}

extension ServerConnection {
    /// The answer to a lone read, where it has come in one piece and is as it should be.
    ///
    /// - Parameter isNext: the bytes begin with a message.
    /// - Returns: false: the bytes are looked at one message after the other.
    @inline(__always)
    func answerLone(_ bytes: UnsafeRawBufferPointer, _ client: ClientConnection, isNext: Bool) -> Bool {
        guard let form = client.unit.lone else { return false }
        if isNext && answerLone(form, bytes, client) { return true }
        client.unit.lone = nil
        return false
    }

    @inline(__always)
    private func answerLone(
        _ form: LoneStatement.Form, _ bytes: UnsafeRawBufferPointer, _ client: ClientConnection
    ) -> Bool {
        let (count, isDescribed) = (client.unit.statementCount, client.unit.isLoneDescribed)
        guard state == .leased, client.phase == .leased,
            let answer = LoneAnswer(
                bytes, to: form, isDescribed: isDescribed, count: count, packetMax: worker.packetMax),
            session.receivedLone(LoneStatement.replyCount(form, isDescribed: isDescribed, count: count))
        else { return false }
        client.loneAnswered(answer, bytes, on: self)
        return true
    }

    /// What the client has set is set here: see `SessionSettings.unify`. A side that must not write has not all of it.
    @inline(__always) fileprivate func hasSettings(of client: ClientConnection) -> Bool {
        if isReadOnly && client.settings.saysReadOnly { return settings == client.settings(for: self) }
        guard settings != nil else { return false }
        return SessionSettings.unify(&client.settings, &settings!)
    }
}

extension Worker {
    /// What `processLone` has found out about the text that is looked at now.
    func takeAnalysed() -> (AnalysedStatement, StatementKey?)? {
        guard let analysed = analysedAhead else { return nil }
        analysedAhead = nil
        return analysed
    }
}
