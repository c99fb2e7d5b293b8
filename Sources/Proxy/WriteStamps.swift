import Configuration
import PGWire
import Primitives
import Routing
import SQLAnalysis
import Sessions

/// Whose writes and reads a unit holds, and from when on they read on NEW only what includes them: see ReadStamps.
/// Used on the client's thread.
extension ClientConnection {
    // MARK: what is sent

    func addStatement(_ analysis: AnalysedStatement, _ key: StatementKey?, _ database: DatabaseState) {
        unit.add(analysis, key)
        if key == nil && !analysis.hasBoundKey { noteKeyless(analysis) }
        if analysis.isPlainRead { return }
        let classification = analysis.classification
        if let key, classification.mayWrite { transaction.noteWriter(key.identity) }
        // Who has written in what was prepared, maybe through another connection, nobody remembers.
        if classification.kind == .preparedTransaction && !classification.preparesTransaction {
            transaction.isAnybodys = true
        }
        if let name = classification.objectName, database.route.table.keySettings.contains(name) {
            unit.namesKeySetting = true
        }
        noteUsers(ofEffects: classification.effects, database)
    }

    /// It names nobody, and is the session's user's, whoever others of the unit's statements name.
    func noteKeyless(_ analysis: AnalysedStatement) {
        if analysis.kind.showsNothing { return }
        unit.hasKeyless = true
        if analysis.kind == .read { return }
        if analysis.classification.mayWrite, let sessionKey { transaction.noteWriter(sessionKey.identity) }
    }

    /// What gives the session another key counts from its commit on only, but what the transaction writes behind it is
    /// that user's.
    func noteUsers(ofEffects effects: [SessionEffect], _ database: DatabaseState) {
        if effects.isEmpty { return }
        let table = database.route.table
        let isKeyedByName = table.keyPlan.sources.contains(.applicationName)
        if table.keySettings.isEmpty && !isKeyedByName { return }
        for effect in effects {
            let values = keyValues.with(effect, names: table.keySettings)
            let name = isKeyedByName ? self.name(behind: effect) : nil
            if values == nil && name == nil { continue }
            transaction.namesUsers = true
            // A setting that stands before it may be reset as well.
            if case .sets(let change) = effect, let value = change.value,
                let identity = database.resolver.identity(of: value)
            {
                transaction.noteWriter(identity)
            }
            let key = sessionKey(with: values ?? keyValues, name: name ?? applicationName)
            if let key { transaction.noteWriter(key.identity) }
        }
    }

    /// - Returns: nil: what the session calls itself stays as it is.
    private func name(behind effect: SessionEffect) -> String? {
        switch effect {
        case .sets(let change): change.name == "application_name" ? change.value ?? startupName : nil
        case .resets(let name): name == "application_name" ? startupName : nil
        case .resetsAll, .discards(.all): startupName
        case .pins, .prepares, .deallocates, .closesCursor, .unlistens, .unlocks, .discards, .changesBothSides: nil
        }
    }

    // MARK: what is answered

    /// The client learns of a commit by its tag, which may come long before ReadyForQuery. Outside of transaction
    /// blocks the last statement of a text is committed before its tag is sent.
    func stampCompleted(tag: UnsafeRawBufferPointer) {
        guard let database, let server else { return }
        transaction.isCommitTold = false
        if tag.elementsEqual("COMMIT\0".utf8) || tag.elementsEqual("COMMIT PREPARED\0".utf8) {
            stampWriters(database)
            transaction.isCommitTold = true
            committed(database)
        } else if server.session.status == .idle {
            stampWriters(database)
        }
    }

    func stampWriters(_ database: DatabaseState) {
        let stamps = database.route.stamps
        let taking = database.route.horizon.taking
        batchNeeded = max(batchNeeded, taking + 1)
        // Without a mirror of ours it would be for good.
        if transaction.isAnybodys && database.isMirrored { stamps.stampAll(taking: taking) }
        let count = transaction.writtenKeys.count
        if let stamped = transaction.stamped, stamped.taking == taking, stamped.keys == count { return }
        transaction.stamped = (taking, count)
        for key in transaction.writtenKeys { stamps.stamp(key, taking: taking) }
    }

    func committed(_ database: DatabaseState) {
        database.route.horizon.kick()
        if database.route.settings.mirror.mode == .sync { awaitCommit(database) }
    }

    /// What is answered tells of what the database holds; so may portals that an earlier unit of the transaction has
    /// opened, and texts that are read in another way.
    var mayShow: Bool { unit.mayShow || transaction.hasRead || !isTextTrusted }

    /// A part of an answer goes to the client, and the rest may take long: what it says was seen, and a procedure may
    /// have committed before. Also called for answers that the client does not get: to what makes the server its own.
    func stampPart(of server: ServerConnection) {
        guard unit.executes, !server.isReadOnly, mayShow, let database else { return }
        if transaction.hasWritten { stampWriters(database) }
        stampReads(database)
        stampOtherReads(database)
    }

    /// A notification tells of a commit, which may be anybody's.
    func stampNotified() { if let database { stampReads(database) } }

    /// What was read on the authority must still be there when the user reads on NEW next.
    @inline(__always)
    func stampReads(_ database: DatabaseState) { if database.isMirrored { stampMirrored(database) } }

    private func stampMirrored(_ database: DatabaseState) {
        let identity = (unitKey ?? sessionKey)?.identity
        guard mayComeToNew(identity, database.route.table) else { return }
        let taking = database.route.horizon.taking
        batchNeeded = max(batchNeeded, taking + 1)
        if let identity { database.route.stamps.stamp(identity.hash, taking: taking) }
    }

    /// What `stampReads` does, for the other users of the unit.
    func stampOtherReads(_ database: DatabaseState) {
        guard database.isMirrored else { return }
        // Whom its settings have named is among those who may write in it, and no unit's key.
        if transaction.namesUsers { stampWriters(database) }
        guard transaction.isAnybodys || !unit.otherKeys.isEmpty else { return }
        let (stamps, table) = (database.route.stamps, database.route.table)
        let taking = database.route.horizon.taking
        batchNeeded = max(batchNeeded, taking + 1)
        if transaction.isAnybodys || unit.hasMoreKeys { return stamps.stampAll(taking: taking) }
        for identity in unit.otherKeys where mayComeToNew(identity, table) {
            stamps.stamp(identity.hash, taking: taking)
        }
    }

    /// By the share, or by a rule, which sends there whoever it is.
    private func mayComeToNew(_ identity: KeyIdentity?, _ table: RoutingTable) -> Bool {
        table.rules.forcesNew || identity.map { $0.bucket.isWithin(share: table.share(of: $0)) } == true
    }
}
