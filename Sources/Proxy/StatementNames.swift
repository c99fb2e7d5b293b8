import PGWire
import Primitives
import SQLAnalysis
import Sessions

/// What is special about a client's names for prepared statements. Used on its reactor's thread.
struct StatementNames: ~Copyable {
    /// SQL has used such names (PREPARE, EXECUTE): what is prepared from then on has the client's own name on its
    /// server, which it keeps. What was prepared before and is not named in SQL goes on under ours.
    var areOwn = false
    /// What the protocol has prepared so, for the analysis only: the server knows.
    var own = StatementMap()
    /// What one of them stands for is not known: it may have left anything in the session.
    var areDoubtful = false
    /// What DEALLOCATE drops, by the portal that is bound to it in the open transaction.
    var boundDrops: [[UInt8]: [UInt8]] = [:]
    /// Of further ones the server is asked, which does not know the client's names.
    private static let boundDropsMax = 64
    /// The server was told to send what it has, for messages that wait for it.
    fileprivate var isFlushed = false
    fileprivate var wantsFlush = false

    /// - Parameter name: nil: the portal is of another statement.
    mutating func bound(_ portal: UnsafeRawBufferPointer, drops name: [UInt8]?) {
        if name == nil && boundDrops.isEmpty { return }
        boundDrops[Array(portal)] = boundDrops.count < Self.boundDropsMax ? name : nil
    }
}

/// Names of prepared statements where SQL and protocol meet: PostgreSQL has one space of names for both.
extension ClientConnection {
    // MARK: waiting for what a name stands for

    /// What a name stands for is not known before an earlier message, which changes it, has been answered.
    func waitsForNames(
        _ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer, _ server: ServerConnection
    ) -> Bool {
        guard server.session.expectedCount > 0, needsSettledNames(frame, bytes, server) else {
            names.isFlushed = false
            return false
        }
        return waitsForAnswers(server)
    }

    /// - Returns: false when everything is answered, or the server itself waits: for the data of a COPY, which it ends
    ///   with an error when anything else comes.
    func waitsForAnswers(_ server: ServerConnection) -> Bool {
        guard server.session.expectedCount > 0, !server.session.awaitsCopyData else {
            names.isFlushed = false
            return false
        }
        repliesAwaited = 0
        if !server.session.owesReady && !names.isFlushed {
            names.isFlushed = true
            names.wantsFlush = true
        }
        return true
    }

    /// Within a batch a server keeps its answers until it is asked for them.
    func askForNames(_ server: ServerConnection) {
        guard names.wantsFlush else { return }
        names.wantsFlush = false
        server.queue([FrontendTag.flush, 0, 0, 0, 4])
        server.flush()
    }

    private func needsSettledNames(
        _ frame: FrontendFrame, _ bytes: UnsafeRawBufferPointer, _ server: ServerConnection
    ) -> Bool {
        // Without names all that can be in doubt is the unnamed statement.
        if changes.isEmpty && statements.count == 0 && !unit.session.dropsStatements && !isUnnamedUnsettled(server) {
            return false
        }
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[frame.bodyStart..<frame.end]))
        switch frame.tag {
        case FrontendTag.query:
            guard let database, let text = reader.cString() else { return false }
            let analysis = database.analyse(text).0
            return !analysis.classification.statementNames.isEmpty || Self.nameDropped(by: analysis) != nil
        case FrontendTag.parse:
            if changes.isEmpty && !unit.session.dropsStatements { return false }
            guard let database, let name = reader.cString(), let text = reader.cString() else { return false }
            // What its SQL names gets the client's own name on the server first, where that is known to be there.
            return isUnsettled(name) || database.analyse(text).0.classification.statementNames.contains { used in
                Array(used.utf8).withUnsafeBytes(isUnsettled)
            }
        case FrontendTag.bind:
            _ = reader.cString()
            guard let name = reader.cString() else { return false }
            return isUnsettled(name) || name.isEmpty && isUnnamedUnsettled(server) || usesNames(statement: name)
        case FrontendTag.describe:
            if reader.byte() != UInt8(ascii: "S") { return false }
            guard let name = reader.cString() else { return false }
            return isUnsettled(name) || name.isEmpty && isUnnamedUnsettled(server)
        case FrontendTag.close:
            if reader.byte() != UInt8(ascii: "S") { return false }
        default: return false
        }
        return reader.cString().map(isUnsettled) ?? false
    }

    /// An earlier batch changes the unnamed statement behind other messages, which may have it skipped: what the server
    /// has then may be another client's.
    private func isUnnamedUnsettled(_ server: ServerConnection) -> Bool {
        // In place: a copy would retain what the change holds.
        guard let last = unnamedBefore.indices.last, unnamedBefore[last].batch != server.session.batchesSent else {
            return false
        }
        return unnamedBefore[last].change == lastUnnamedChange
    }

    private func isUnsettled(_ name: UnsafeRawBufferPointer) -> Bool {
        !name.isEmpty && (unit.session.dropsStatements || changes.isUnsettled(name))
    }

    /// A Bind to a statement that uses names itself.
    private func usesNames(statement name: UnsafeRawBufferPointer) -> Bool {
        guard let database else { return false }
        let analysis = name.isEmpty ? unnamed?.analysis : statements.find(name).map { database.statements[$0].analysis }
        guard let analysis else { return false }
        if let dropped = Self.nameDropped(by: analysis) { return dropped.withUnsafeBytes { changes.isUnsettled($0) } }
        return !analysis.isWithoutTrace && !analysis.classification.statementNames.isEmpty
    }

    // MARK: DEALLOCATE

    /// The name in a lone DEALLOCATE.
    static func nameDropped(by analysis: AnalysedStatement) -> [UInt8]? {
        guard analysis.kind == .deallocate, let name = analysis.classification.objectName else { return nil }
        return Array(name.utf8)
    }

    /// See `deallocate`: also within a transaction. Everything before it is answered.
    ///
    /// - Returns: whether it is answered, and not for the server.
    func deallocatesLocally(
        _ query: FrontendFrame, _ run: inout ForwardRun, _ server: ServerConnection
    ) -> Bool {
        guard statements.count > 0, server.session.isQuiet, let database else { return false }
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: run.bytes[query.bodyStart..<query.end]))
        guard let text = reader.cString(), let name = Self.nameDropped(by: database.analyse(text).0)
        else { return false }
        if server.session.status != .idle || !server.session.isBetweenUnits {
            // There a query does more: it ends the batch, and the unnamed portal.
            if status != .failed && standIn(forName: name, &run, server, isAlone: server.session.isAtBatchStart) {
                _ = deallocate(name)
            }
            return false
        }
        guard deallocate(name) else { return false }
        unit.session.removeAll()
        dropUnnamedLocally()
        var writer = MessageWriter()
        writer.commandComplete("DEALLOCATE")
        writer.readyForQuery(status)
        send(writer.bytes)
        return true
    }

    /// A query that we answer drops the unnamed statement as any other does.
    func dropUnnamedLocally() {
        unnamed = nil
        lastUnnamedChange = statements.nextNumber()
    }

    func forwardExecute(
        _ body: UnsafeRawBufferPointer, _ run: inout ForwardRun, _ server: ServerConnection
    ) {
        var reader = BodyReader(body)
        guard !names.boundDrops.isEmpty, let portal = reader.cString(),
            let name = names.boundDrops.removeValue(forKey: Array(portal))
        else {
            server.session.sent(.execute)
            return
        }
        standIn(forName: name, &run, server)
        let number = statements.nextNumber()
        name.withUnsafeBytes { bytes in
            if let closed = statements.remove(bytes) { changes.note(number, bytes, previous: closed) }
        }
        server.session.sent(.executeDropping(change: number))
    }

    /// The server knows the client's statement under another name: it gets one of this name to drop.
    ///
    /// - Parameter isAlone: in a batch of its own.
    @discardableResult
    private func standIn(
        forName name: [UInt8], _ run: inout ForwardRun, _ server: ServerConnection, isAlone: Bool = false
    ) -> Bool {
        guard name.withUnsafeBytes({ statements.find($0) }) != nil else { return false }
        prepare([(name, Array("SELECT".utf8) + [0, 0, 0], 0)], isAlone: isAlone, &run, server)
        return true
    }

    /// Statements under the client's own names. In a batch of its own an error must not cost the next message its turn.
    private func prepare(
        _ own: [(name: [UInt8], parseBody: [UInt8], change: UInt32)], isAlone: Bool, _ run: inout ForwardRun,
        _ server: ServerConnection
    ) {
        for (name, parseBody, change) in own
        where server.session.sent(isAlone ? .ownParse : .ownParseInBatch(change: change)) {
            run.insert(rewritten(FrontendTag.parse, name + [0], parseBody), server)
        }
        if isAlone && !own.isEmpty && server.session.sent(.quietSync) {
            run.insert([FrontendTag.sync, 0, 0, 0, 4], server)
        }
    }

    /// The server has none of them any more.
    func namesDropped() {
        for id in statements.removeAll() + changes.settle() + names.own.removeAll() {
            database?.statements.release(id)
        }
        server?.preparedIn.removeAll(keepingCapacity: true)
        unit.session.dropsStatements = false
        if pins.contains(.preparedInSQL) && !names.areDoubtful {
            unpin(.preparedInSQL)
            names.areOwn = false
        }
    }

    // MARK: PREPARE and EXECUTE

    /// A Parse that goes to the server under the client's own name.
    func noteOwn(_ name: UnsafeRawBufferPointer, _ parseBody: UnsafeRawBufferPointer, _ database: DatabaseState) {
        if let known = names.own.find(name) {
            // Which of both the name stands for only the server knows.
            if !database.statements[known].parseBody.elementsEqual(parseBody) { names.areDoubtful = true }
            return
        }
        var reader = BodyReader(parseBody)
        guard let text = reader.cString() else { return }
        let id = database.statements.intern(parseBody, database.analyse(text))
        if names.own.define(name, as: id) == nil { database.statements.release(id) }
    }

    /// SQL of the present unit uses names: those that the protocol has given, too. The server gets them, and is kept.
    ///
    /// Everything before it is answered. In a failed transaction nothing can be prepared, and EXECUTE fails anyway.
    func takeOwnNames(_ run: inout ForwardRun, _ server: ServerConnection, isQuery: Bool) {
        let used = unit.session.statementNames.map { Array($0.utf8) }
        unit.session.forgetStatementNames()
        guard let database, server.session.status != .failed, !server.isReadOnly else { return }
        let known = used.filter { $0.withUnsafeBytes { statements.find($0) } != nil }
        if known.isEmpty && !unit.prepares && !unit.parsesNamed { return }
        names.areOwn = true
        pin(.preparedInSQL)
        var own: [(name: [UInt8], parseBody: [UInt8], change: UInt32)] = []
        for name in known {
            guard let id = name.withUnsafeBytes({ statements.remove($0) }) else { continue }
            let number = statements.nextNumber()
            let parseBody = database.statements[id].parseBody
            name.withUnsafeBytes { bytes in
                changes.note(number, bytes, previous: id)
                parseBody.withUnsafeBytes { noteOwn(bytes, $0, database) }
            }
            own.append((name, parseBody, number))
        }
        prepare(own, isAlone: isQuery && server.session.isAtBatchStart, &run, server)
    }
}

/// What the unnamed prepared statement of a client is, so that it can follow the client to another server.
struct UnnamedStatement {
    /// Parse's body behind the name.
    var parseBody: [UInt8]
    var token: UInt64
    var analysis: AnalysedStatement
    var key: StatementKey?
    /// The registry's when it was analysed.
    var generation: UInt32

    /// In place: most are as long as the one before, and others use its buffer.
    mutating func keep(_ body: UnsafeRawBufferPointer) {
        if parseBody.count == body.count { return parseBody.withUnsafeMutableBytes { $0.copyMemory(from: body) } }
        parseBody.removeAll(keepingCapacity: true)
        parseBody.append(contentsOf: body)
    }
}

extension ClientConnection {
    /// See `DatabaseState.analysis(of:)`.
    @inline(__always)
    func renewUnnamed(_ database: DatabaseState) {
        guard let known = unnamed?.generation, known != database.statements.generation else { return }
        analyseUnnamed(database)
    }

    private func analyseUnnamed(_ database: DatabaseState) {
        guard let parseBody = unnamed?.parseBody else { return }
        let (analysis, key) = analyse(parseBody: parseBody, database)
        unnamed?.analysis = analysis
        unnamed?.key = key
        unnamed?.generation = database.statements.generation(of: analysis)
    }
}

/// What the unnamed statement was before a message in flight that the server may yet skip.
struct UnnamedChange {
    let change: UInt32
    var previousChange: UInt32
    /// Analysed again if it is needed after all.
    var statement: (parseBody: [UInt8], token: UInt64)?
    /// See `ServerSession.batchesSent`.
    var batch: UInt32 = 0
}
