import PGWire
import Primitives
import Routing
import SQLAnalysis
import Sessions

/// From a leased client's bytes to its server: messages go as they lie, but for the names of prepared statements.
extension ClientConnection {
    /// The largest Parse that is kept whole.
    private static let parseBytesMax = 16 << 20
    /// Notes of a pipeline's units, beyond which it has to be answered whole first.
    private static let notesMax = 1000
    /// The same of the bytes of texts that were replaced.
    private static let replacedBytesMax = 4 << 20
    /// A message larger than this goes on in pieces.
    private static let pieceMin = 32 * 1024

    func processLeased(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard let server else { preconditionFailure("leased without a server") }
        if !bytes.isEmpty { unit.lone = nil }
        let wasCongested = server.isCongested
        var run = ForwardRun(bytes)
        if unit.byteCount > 0 {
            forwardUnit(bytes, &run, server)
        } else if bytes.isEmpty || holdsNextUnit(server) {
            return 0
        }
        if !holdsNextUnit(server) { stream(bytes, &run, server) }
        if phase == .closed { return bytes.count }
        run.finish(server)
        askForNames(server)
        pumpAnswers(server)
        // What we have answered ourselves nobody waits for: no event would tell of it, and have the client read again.
        if server.session.expectedCount == 0 { repliesAwaited = nil }
        if passToServer == 0 && server.session.needsBarrier { server.runQuietly("") }  // not within a message
        // The queue went out just now: the bytes that waited for it go on.
        if wasCongested && !server.isCongested { resumeSoon() }
        // The last that went there was what a COPY that has failed leaves over: nothing comes that would give it back.
        // A message that is being gathered keeps it.
        let isDone = run.offset == bytes.count || bytesToSkip > 0
        if server.session.isFree && !server.isWithinMessage && mayGiveBack && isDone {
            transaction = TransactionFacts()
            giveBack(server)
        }
        return run.offset
    }

    /// One unit at a time where the present one may still have to be run elsewhere. A server that skips to a Sync owes
    /// nothing: that Sync is among what comes next. And what goes on with a batch comes before its answers.
    func holdsNextUnit(_ server: ServerConnection) -> Bool {
        isHolding || server.isReadOnly && server.session.isAtBatchStart && server.session.expectedCount > 0
    }

    /// The unit that was routed, which `note` has seen already.
    private func forwardUnit(_ bytes: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection) {
        let end = unit.byteCount
        unit.byteCount = 0
        if isHolding {
            replay.removeAll(keepingCapacity: true)
            replay.append(contentsOf: bytes[..<end])
        }
        openTransaction()
        // Of several, each is looked at again when it is forwarded.
        if unit.parsesUnnamedAgain { unit.unnamed = nil }
        if !unit.executes { unit.session.forgetStatementNames() }
        if !unit.session.statementNames.isEmpty {
            takeOwnNames(&run, server, isQuery: bytes[0] == FrontendTag.query)
        }
        if unit.carriesBegin && server.isReadOnly {
            answerFrames(bytes, from: 0, to: unit.firstExecuteEnd, tag: lazy?.tag ?? "BEGIN")
            run.dropAll(upTo: unit.firstExecuteEnd)
        }
        // A malformed message has closed the connection, at the latest when its error is out, and is not passed.
        while run.offset < end, phase != .closed, !isClosingAfterFlush,
            let header = FrameHeader.parse(bytes, at: run.offset)
        {
            let frame = FrontendFrame(tag: header.tag, start: run.offset, end: run.offset + header.frameSize)
            let step = waitsForNames(frame, bytes, server) ? .waits : follow(frame, bytes, &run, server, isNoted: true)
            if step == .waits {
                notedAhead = end - frame.start
                deniedAhead = unit.notes.deniedStart.map { end - $0 }
                return
            }
            if step == .isRefused { continue }
            if frame.start == unit.notes.deniedStart {
                run.replace(frame, with: standIn(forDenied: frame, on: server), server)
            } else {
                forward(frame, &run, server)
            }
        }
    }

    private func openTransaction() {
        if unit.startedAt.nanoseconds == 0 { unit.startedAt = worker.now }
        if !transaction.isOpen {
            transaction.isOpen = true
            transaction.startedAt = unit.startedAt
        }
        noteWritten()
    }

    private func noteWritten() {
        guard unit.mayWrite else { return }
        noteDraws()
        transaction.noteWritten(isChange: unit.mayChange)
        let hidesColumns = unit.hidesColumns && database?.findsKeysInColumns == true
        if unit.hidesKey || hidesColumns { transaction.isAnybodys = true }
        if let key = unitKey ?? sessionKey { transaction.noteWriter(key.identity) }
    }

    /// Messages that follow while the client has its server: as they come.
    private func stream(_ bytes: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection) {
        if passToServer > 0 {
            let count = min(passToServer, bytes.count - run.offset)
            passToServer -= count
            run.pass(to: run.offset + count)
        }
        while passToServer == 0, phase == .leased, !isClosingAfterFlush, !server.isCongested, !server.session.isFull,
            let header = FrameHeader.parse(bytes, at: run.offset)
        {
            if let error = header.frontendError(packetMax: worker.packetMax) { return violated(error) }
            // One unit at a time: see `holdsNextUnit`.
            if server.isReadOnly && server.session.isAtBatchStart && server.session.expectedCount > 0 { return }
            if waitsToSettle(server) { return }
            let frame = FrontendFrame(tag: header.tag, start: run.offset, end: run.offset + header.frameSize)
            if frame.tag == FrontendTag.terminate {
                if server.session.isQuiet { return close() }
                // What came before it is done first, as PostgreSQL does it.
                run.drop(frame, server)
                return terminated()
            }
            if frame.tag == FrontendTag.password { return violated(.unexpectedMessage(tag: frame.tag)) }
            if server.session.isFree && notedAhead == 0 && FrontendTag.isOfCopy(frame.tag) {
                return skipUnit(frame.end - frame.start)  // see `UnitScanner.Progress.stray`
            }
            // Also of one whose head would go on: it begins a unit like any other.
            if waitsAtBorder(frame.tag, server) || waitsForStartup(frame.tag, server) { return }
            if frame.end > bytes.count {
                if bytes.count - frame.start < Self.pieceMin || !forwardHead(of: frame, bytes, &run, server) { return }
                continue
            }
            if waitsForNames(frame, bytes, server) || waitsForChange(frame, bytes, server) { return }
            if waitsForValues(frame, bytes, &run, server) { return }
            switch follow(frame, bytes, &run, server, isNoted: notedAhead > 0) {
            case .passes: break
            case .waits: return
            case .isRefused: continue
            }
            // It may be at work for us, as for a question about pins.
            if server.session.isQuiet || unit.startedAt.nanoseconds == 0 { unit.startedAt = worker.now }
            let isDenied = notesDenial(frame, bytes)
            if server.isReadOnly && !server.session.skipsNext && mustNotRunOnNew(server) {
                // What comes before it may fail, and then it does not run.
                if waitsForAnswers(server) { return keepNoted(frame, isDenied: isDenied) }
                return refuseOnNew()
            }
            if isDenied {
                if beginChange(UnsafeRawBufferPointer(rebasing: bytes[frame.start..<frame.end])) { return }
                run.replace(frame, with: standIn(forDenied: frame, on: server), server)
                continue
            }
            if !unit.session.statementNames.isEmpty {
                takeOwnNames(&run, server, isQuery: frame.tag == FrontendTag.query)
            }
            if frame.tag == FrontendTag.query && deallocatesLocally(frame, &run, server) {
                run.drop(frame, server)
            } else {
                forward(frame, &run, server)
            }
        }
        if server.session.isFull { repliesAwaited = UInt32(ServerSession.expectedMax / 2) }
    }

    /// What a pipeline's units do to the session is settled when all is answered. A client that always has something in
    /// flight waits for that now and then, or its notes would grow for ever, and with them the time for each answer.
    /// What names stood for is settled amid a batch as well.
    private func waitsToSettle(_ server: ServerConnection) -> Bool {
        let names = unnamedBefore.count + changes.count
        let effects = server.session.isAtBatchStart ? unit.session.stepCount + settledEffects.count : 0
        if names + effects <= Self.notesMax && replacedBytes <= Self.replacedBytesMax { return false }
        if waitsForAnswers(server) { return true }
        if server.session.isQuiet { settleNames() }
        return false
    }

    /// Looks at the message, if that was not done before.
    ///
    /// - Returns: whether it is denied.
    private func notesDenial(_ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer) -> Bool {
        if notedAhead > 0 {
            let isDenied = notedAhead == deniedAhead
            notedAhead -= frame.end - frame.start
            return isDenied
        }
        let before = (statements: unit.statementCount, steps: unit.session.stepCount, denials: unit.notes.denials)
        note(frame, bytes)
        if unit.statementCount > before.statements { openTransaction() }
        if unit.notes.denials == before.denials { return false }
        unit.session.removeSteps(from: before.steps)
        return true
    }

    /// It waits, and is not looked at again.
    private func keepNoted(_ frame: FrontendFrame, isDenied: Bool) {
        notedAhead += frame.end - frame.start
        if isDenied { deniedAhead = notedAhead } else if (deniedAhead ?? 0) >= notedAhead { deniedAhead = nil }
    }

    /// What was noted ahead was noted in the unit that goes: it is looked at anew.
    ///
    /// - Parameter isOpen: the transaction goes on.
    func renewUnit(isOpen: Bool) {
        (notedAhead, deniedAhead) = (0, nil)
        guard isOpen && unit.session.hasPortals else { return unit = Unit() }
        var next = Unit()
        next.session.takePortals(from: &unit.session)
        unit = next
    }

    /// The beginning of a message that is not whole yet.
    ///
    /// - Returns: false when it has to be whole first.
    private func forwardHead(
        of frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection
    ) -> Bool {
        switch frame.tag {
        case FrontendTag.copyData:
            break
        case FrontendTag.copyFail:
            server.session.copyInEnded()
        case FrontendTag.query where followed?.hasChange == true:
            if frame.end - frame.start <= Self.parseBytesMax { return false }
            close(with: FollowedTransaction.tooLong(frame.end - frame.start))
            return false
        case FrontendTag.query:
            if frame.end - frame.start <= Self.unitBytesMax { return false }
            // Too long to be looked at: it may have set anything.
            unit.executes = true
            unit.addUnknown()
            unit.session.pin(.unknownStatement)
            if deniesHead(UnsafeRawBufferPointer(rebasing: bytes[frame.bodyStart...])) { return false }
            if server.isReadOnly {
                close(with: ErrorResponse(
                    .fatal, .featureNotSupported,
                    "a query of \(frame.end - frame.start) bytes is too long for a READ ONLY transaction on NEW",
                    hint: "Godwit looks at texts of up to \(Self.unitBytesMax) bytes; send values as parameters."))
                return false
            }
            if database?.findsKeysInTexts == true { transaction.isAnybodys = true }  // of whose key nobody knows
            openTransaction()
            server.session.sent(.query)
        case FrontendTag.functionCall:
            var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[frame.bodyStart...]))
            if let database { noteFunctionCall(&reader, database) }
            openTransaction()
            server.session.sent(.functionCall)
        case FrontendTag.bind:
            return forwardBindHead(frame, bytes, &run, server)
        case FrontendTag.parse:
            if frame.end - frame.start <= Self.parseBytesMax { return false }
            close(with: ErrorResponse(
                .fatal, SQLState("54000"), "a prepared statement of \(frame.end - frame.start) bytes is too large",
                hint: "Godwit keeps statements of up to \(Self.parseBytesMax) bytes; send values as parameters."))
            return false
        default:
            return false
        }
        passToServer = frame.end - bytes.count
        run.pass(to: bytes.count)
        return true
    }

    private func forwardBindHead(
        _ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection
    ) -> Bool {
        let body = UnsafeRawBufferPointer(rebasing: bytes[frame.bodyStart...])
        var reader = BodyReader(body)
        guard let portal = reader.cString(), let name = reader.cString() else {
            violated(.malformedBody(tag: frame.tag))
            return false
        }
        let head = FrontendFrame(tag: frame.tag, start: frame.start, end: bytes.count)
        if waitsForNames(head, bytes, server) || waitsForValues(head, bytes, &run, server) { return false }
        if deniesHead(ofBind: body) || refusesOnNew(server) { return false }
        openTransaction()
        bind(portal, name, rest: reader.rest(), bodySize: frame.end - frame.bodyStart, frame, &run, server)
        run.passIfAt(frame.start, to: bytes.count)
        passToServer = frame.end - bytes.count
        return true
    }

    // MARK: whole messages

    private func forward(_ frame: FrontendFrame, _ run: inout ForwardRun, _ server: ServerConnection) {
        if let followed { followed.isGranted = false }
        if server.session.skipsNext && frame.tag != FrontendTag.sync {
            if frame.tag == FrontendTag.query || frame.tag == FrontendTag.functionCall { unit.session.skipBatchEnds(1) }
            return run.pass(to: frame.end)
        }
        let body = UnsafeRawBufferPointer(rebasing: run.bytes[frame.bodyStart..<frame.end])
        switch frame.tag {
        case FrontendTag.query:
            if database?.shadow != nil { sampleShadow(query: body) }
            if server.session.isAtBatchStart {
                server.session.sent(.query)
                unnamed = nil
                lastUnnamedChange = statements.nextNumber()
            } else {
                server.session.sent(.queryInBatch(change: dropUnnamed(server)))
            }
            server.unnamedToken = 0
            changes.batchEnded()
            var reader = BodyReader(body)
            if let database, let text = reader.cString(), let other = rewritten(text, database) {
                return run.replace(frame, with: rewritten(frame.tag, other, [0]), server)
            }
        case FrontendTag.functionCall:
            server.session.sent(.functionCall)
            changes.batchEnded()
        case FrontendTag.parse:
            return forwardParse(frame, body, &run, server)
        case FrontendTag.bind:
            var reader = BodyReader(body)
            guard let portal = reader.cString(), let name = reader.cString() else {
                return violated(.malformedBody(tag: frame.tag))
            }
            if database?.shadow != nil { sampleShadow(bind: name, reader) }
            bind(portal, name, rest: reader.rest(), bodySize: body.count, frame, &run, server)
            return run.passIfAt(frame.start, to: frame.end)
        case FrontendTag.describe:
            return forwardDescribe(frame, body, &run, server)
        case FrontendTag.close:
            return forwardClose(frame, body, &run, server)
        case FrontendTag.execute:
            forwardExecute(body, &run, server)
        case FrontendTag.sync:
            if !server.session.sent(.sync) { unit.session.ignoreBatchEnds(1) }
            changes.batchEnded()
        case FrontendTag.copyDone, FrontendTag.copyFail:
            server.session.copyInEnded()
        default:
            break
        }
        run.pass(to: frame.end)
    }

    private func forwardParse(
        _ frame: FrontendFrame, _ body: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection,
        isRewritten: Bool = false
    ) {
        var reader = BodyReader(body)
        guard let database, let name = reader.cString() else { return violated(.malformedBody(tag: frame.tag)) }
        let parseBody = reader.rest()
        var textReader = BodyReader(parseBody)
        guard let text = textReader.cString() else { return violated(.malformedBody(tag: frame.tag)) }
        if !isRewritten, let other = rewritten(text, database) {
            let whole = Array(name) + [0] + other + [0] + Array(textReader.rest())
            return whole.withUnsafeBytes { forwardParse(frame, $0, &run, server, isRewritten: true) }
        }
        if name.isEmpty {
            let number = server.session.isAtBatchStart ? statements.nextNumber() : dropUnnamed(server)
            keepUnnamed(parseBody, text, database)
            lastUnnamedChange = number
            server.session.sent(.parse(nil, definition: number))
            server.unnamedToken = unnamed?.token ?? 0
            server.unnamedPreparedIn = nil
            if isRewritten {
                return run.replace(frame, with: rewritten(FrontendTag.parse, [0], Array(parseBody)), server)
            }
            return run.pass(to: frame.end)
        }
        if names.areOwn && statements.find(name) == nil {
            noteOwn(name, parseBody, database)
            server.session.sent(.parse(nil, definition: 0))
            if isRewritten {
                return run.replace(
                    frame, with: rewritten(FrontendTag.parse, Array(name) + [0], Array(parseBody)), server)
            }
            return run.pass(to: frame.end)
        }
        if statements.find(name) != nil { return refuseTaken(frame, parseBody, &run, server) }
        // What was prepared before has the result that it had, or other tables, and PostgreSQL refuses it (0A000).
        if hasChangedSchema || unit.notes.changesSchema { database.statements.retire(parseBody) }
        let id = database.statements.intern(parseBody, database.analyse(text))
        guard let definition = statements.define(name, as: id) else {
            database.statements.release(id)
            return close(with: ErrorResponse(
                .fatal, .configurationLimitExceeded,
                "a client may name \(StatementMap.namesMax) prepared statements at most",
                hint: "Close statements that are not needed any more."))
        }
        changes.note(definition, name, previous: nil)
        if server.statements.use(id, by: literalSettings) {
            if server.session.isSurelyNotFailed {
                server.session.sent(.answerParse(definition: definition))
                return run.drop(frame, server)
            }
            // A failed transaction would refuse it: the server is asked.
            server.statements.doubt(id)
        }
        makeRoom(for: id, &run, server)
        if server.session.sent(.parse(id, definition: definition)) {
            server.preparedIn[id] = server.session.batchesSent
        } else {
            server.statements.doubt(id)
        }
        let serverName = database.statements[id].serverName
        run.replace(frame, with: rewritten(FrontendTag.parse, serverName, Array(parseBody)), server)
    }

    /// PostgreSQL refuses a name that is taken, if it refuses nothing else before: so it gets one that is.
    private func refuseTaken(
        _ frame: FrontendFrame, _ parseBody: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection
    ) {
        let taken = Array("\(StatementRegistry.namePrefix)taken".utf8) + [0]
        if server.session.sent(.quietClose) {
            run.insert(rewritten(FrontendTag.close, [UInt8(ascii: "S")] + taken, []), server)
        }
        // An empty text is taken in a failed transaction, too.
        if server.session.sent(.ownParseInBatch(change: 0)) {
            run.insert(rewritten(FrontendTag.parse, taken, [0, 0, 0]), server)
        }
        server.session.sent(.parse(nil, definition: 0))
        run.replace(frame, with: rewritten(FrontendTag.parse, taken, Array(parseBody)), server)
    }

    /// The client has no unnamed statement from now on, unless the server skips what drops it.
    ///
    /// - Returns: the number of the change.
    private func dropUnnamed(_ server: ServerConnection) -> UInt32 {
        let number = statements.nextNumber()
        let statement = unnamed.map { ($0.parseBody, $0.token) }
        replacedBytes &+= UInt32(truncatingIfNeeded: statement?.0.count ?? 0)
        unnamed = nil
        unnamedBefore.append(UnnamedChange(
            change: number, previousChange: lastUnnamedChange, statement: statement,
            batch: server.session.batchesSent))
        lastUnnamedChange = number
        return number
    }

    func keepUnnamed(
        _ parseBody: UnsafeRawBufferPointer, _ text: UnsafeRawBufferPointer, _ database: DatabaseState
    ) {
        let types = BodyReader(UnsafeRawBufferPointer(rebasing: parseBody[(text.count + 1)...]))
        let (analysis, key) = unit.unnamed ?? analysedLoosely(text, database)
            ?? DatabaseState.judged(database.analyse(text), types: types)
        let token = worker.nextToken()
        if unnamed == nil {
            unnamed = UnnamedStatement(
                parseBody: Array(parseBody), token: token, analysis: analysis, key: key,
                generation: database.statements.generation(of: analysis))
        } else {
            unnamed?.keep(parseBody)
            unnamed?.token = token
            if unnamed?.analysis !== analysis { unnamed?.analysis = analysis }
            unnamed?.key = key
            unnamed?.generation = database.statements.generation(of: analysis)
        }
    }

    private func bind(
        _ portal: UnsafeRawBufferPointer, _ name: UnsafeRawBufferPointer, rest: UnsafeRawBufferPointer, bodySize: Int,
        _ frame: FrontendFrame, _ run: inout ForwardRun, _ server: ServerConnection
    ) {
        defer { server.session.sent(.bind) }
        if database?.followsDDL == true || followed != nil { followBind(portal, name) }
        if name.isEmpty {
            names.bound(portal, drops: (unnamed?.analysis).flatMap { Self.nameDropped(by: $0) })
            return prepareUnnamed(&run, server)
        }
        guard let database, let id = statements.find(name) else { return }
        names.bound(portal, drops: Self.nameDropped(by: database.statements[id].analysis))
        prepare(id, &run, server)
        let serverName = database.statements[id].serverName
        // The length counts what is still to come of a message that is not whole.
        let length = UInt32(4 + bodySize - name.count - 1 + serverName.count)
        var message: [UInt8] = [FrontendTag.bind]
        message.reserveCapacity(rest.count + portal.count + serverName.count + 8)
        for shift in [24, 16, 8, 0] as [UInt32] { message.append(UInt8(truncatingIfNeeded: length >> shift)) }
        message.append(contentsOf: portal)
        message.append(0)
        message.append(contentsOf: serverName)
        message.append(contentsOf: rest)
        run.replace(upTo: min(frame.end, run.bytes.count), with: message, server)
    }

    private func forwardDescribe(
        _ frame: FrontendFrame, _ body: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection
    ) {
        defer { server.session.sent(.describe) }
        var reader = BodyReader(body)
        guard let kind = reader.byte(), let name = reader.cString() else {
            return violated(.malformedBody(tag: frame.tag))
        }
        if kind != UInt8(ascii: "S") { return run.pass(to: frame.end) }
        if name.isEmpty {
            prepareUnnamed(&run, server)
            return run.pass(to: frame.end)
        }
        guard let database, let id = statements.find(name) else { return run.pass(to: frame.end) }
        prepare(id, &run, server)
        let serverName = database.statements[id].serverName
        run.replace(frame, with: rewritten(FrontendTag.describe, [kind] + serverName, []), server)
    }

    /// A named statement is closed for this client only: others, or it itself, may use its text again.
    private func forwardClose(
        _ frame: FrontendFrame, _ body: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection
    ) {
        var reader = BodyReader(body)
        guard let kind = reader.byte(), let name = reader.cString() else {
            return violated(.malformedBody(tag: frame.tag))
        }
        if kind == UInt8(ascii: "S"), !name.isEmpty, !(names.areOwn && statements.find(name) == nil) {
            let number = statements.nextNumber()
            if let closed = statements.remove(name) { changes.note(number, name, previous: closed) }
            server.session.sent(.answerClose(change: number))
            return run.drop(frame, server)
        }
        if kind == UInt8(ascii: "S"), let id = names.own.remove(name) { database?.statements.release(id) }
        if kind == UInt8(ascii: "S"), name.isEmpty {
            server.session.sent(.closeUnnamed(change: dropUnnamed(server)))
            server.unnamedToken = 0
        } else {
            server.session.sent(.close)
        }
        run.pass(to: frame.end)
    }

    // MARK: statements that follow the client

    /// The server gets the statement before it is used there, if it has not got it.
    private func prepare(_ id: StatementID, _ run: inout ForwardRun, _ server: ServerConnection) {
        guard let database else { return }
        let statement = database.statements[id]
        if server.statements.use(id, by: literalSettings) {
            // An earlier batch of the pipeline prepares it, and may be skipped before it does.
            guard let batch = server.preparedIn[id], batch != server.session.batchesSent,
                server.session.isUnanswered(batch), server.session.sent(.quietClose)
            else { return }
            run.insert(rewritten(FrontendTag.close, [UInt8(ascii: "S")] + statement.serverName, []), server)
        } else {
            makeRoom(for: id, &run, server)
        }
        if server.session.sent(.quietParse(id)) {
            server.preparedIn[id] = server.session.batchesSent
            run.insert(rewritten(FrontendTag.parse, statement.serverName, statement.parseBody), server)
        } else {
            server.statements.doubt(id)
        }
    }

    private func makeRoom(for id: StatementID, _ run: inout ForwardRun, _ server: ServerConnection) {
        guard let literals = database?.statements[id].literals,
            let victim = server.statements.insert(id, literalsRead(literals)), server.session.sent(.quietClose)
        else { return }
        let name = Array("\(StatementRegistry.namePrefix)\(victim.value)".utf8) + [0]
        run.insert(rewritten(FrontendTag.close, [UInt8(ascii: "S")] + name, []), server)
    }

    private func prepareUnnamed(_ run: inout ForwardRun, _ server: ServerConnection) {
        let token = unnamed?.token ?? 0
        if server.unnamedToken == token {
            // As above.
            guard let batch = server.unnamedPreparedIn, batch != server.session.batchesSent,
                server.session.isUnanswered(batch)
            else { return }
        }
        if !server.session.sent(unnamed == nil ? .quietClose : .quietParse(nil)) { return }
        server.unnamedPreparedIn = server.session.batchesSent
        server.unnamedToken = token
        if let unnamed {
            run.insert(rewritten(FrontendTag.parse, [0], unnamed.parseBody), server)
        } else {
            // The client has none: what another left there must not answer.
            run.insert(rewritten(FrontendTag.close, [UInt8(ascii: "S"), 0], []), server)
        }
    }

    func rewritten(_ tag: UInt8, _ name: [UInt8], _ rest: [UInt8]) -> [UInt8] {
        let length = UInt32(4 + name.count + rest.count)
        var message: [UInt8] = [tag]
        message.reserveCapacity(Int(length) + 1)
        for shift in [24, 16, 8, 0] as [UInt32] { message.append(UInt8(truncatingIfNeeded: length >> shift)) }
        message += name
        message += rest
        return message
    }

    /// Answers that need no server, when it is their turn.
    private func pumpAnswers(_ server: ServerConnection) {
        var hasAnswers = false
        while !server.isWithinMessage, let tag = server.session.nextAnswer() {
            queueAnswer(tag)
            hasAnswers = true
        }
        if hasAnswers && !isHolding { sendFromServer(UnsafeRawBufferPointer(start: nil, count: 0)) }
    }
}
