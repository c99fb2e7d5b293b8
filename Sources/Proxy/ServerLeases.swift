import PGWire
import Primitives
import Sessions

/// Who holds a server, and what is done on it before the next one gets it.
extension ServerConnection {
    /// Times that the end of what nobody waits for is asked for, a second apart, before the connection is just closed.
    private static let abandonedCancelsMax = 60

    var side: Side { endpoint.side }
    var isSettling: Bool { state == .settling }
    var pointer: String { "s\(worker.index).\(id.value)" }

    @inline(__always)
    func lease(to client: ClientConnection) {
        precondition(state == .idle && self.client == nil, "a server with two clients")
        state = .leased
        leasedAt = worker.now
        heardAt = worker.now
        self.client = client
    }

    /// The client has done with it and it is free for anybody.
    func release() {
        precondition(session.isFree, "a dirty server was about to be handed on")
        client = nil
        resumeReading()
        if cancelsInFlight > 0 {
            state = .settling
        } else {
            state = .idle
            worker.releaseServer(self)
        }
    }

    /// The client lets go while the answer to its last unit is still on its way: it is read and dropped.
    func detach() {
        client = nil
        state = .settling
        heardAt = worker.now
        resumeReading()
        settleIfQuiet()
    }

    /// Its client has gone while it is at work, which is ended, so that its locks go too; then it is closed.
    ///
    /// Not at once: PostgreSQL ignores a cancel request that overtakes the query, and does not look at its socket while
    /// it works. So it is asked again until it answers.
    func abandon() {
        client = nil
        state = .settling
        // Who reads slowly, or takes the time of a long read, has kept it silent: from now on it has to answer.
        heardAt = worker.now
        resumeReading()
        if !session.owesReady { syncQuietly() }
        cancelsLeft = Self.abandonedCancelsMax
        cancelAbandoned()
    }

    /// A second has passed without the end of its work.
    func cancelAbandoned() {
        guard let left = cancelsLeft, state == .settling else { return }
        if left == 0 || session.awaitsCopyData { return close() }
        cancelsLeft = left - 1
        _ = CancelConnection.start(to: self, on: worker, for: nil)
        worker.schedule(.abandoned(id), at: worker.now.advanced(bySeconds: 1))
    }

    /// The client lets go behind a batch whose Sync will go elsewhere: this server gets one of ours.
    func detachWithSync() {
        syncQuietly()
        detach()
    }

    /// Ends a batch that the client has not ended here; nobody sees its ReadyForQuery.
    private func syncQuietly() {
        var writer = MessageWriter()
        writer.sync()
        session.sent(.quietQuery)
        quietFailure = nil
        queue(writer.bytes)
        flush()
    }

    /// Runs `sql` for nobody before the server is handed on.
    func settle(with sql: String) {
        client = nil
        state = .settling
        heardAt = worker.now
        resumeReading()
        runQuietly(sql)
    }

    /// The client sees nothing of it.
    func runQuietly(_ sql: String) {
        queueQuietly(sql)
        flush()
    }

    /// The same, sent together with what is queued next.
    func queueQuietly(_ sql: String) {
        var writer = MessageWriter()
        writer.query(sql)
        session.sent(.quietQuery)
        unnamedToken = 0
        quietFailure = nil
        queue(writer.bytes)
    }

    /// What ends for all whom it had statements for ends here too.
    func commandCompleted(_ tag: UnsafeRawBufferPointer) {
        if tag.first == UInt8(ascii: "D"),
            tag.elementsEqual("DEALLOCATE ALL\0".utf8) || tag.elementsEqual("DISCARD ALL\0".utf8)
        {
            statements.removeAll()
            if tag[1] == UInt8(ascii: "I") { sequences = .nobody }
            client?.namesDropped()
        }
        client?.commandCompleted(tag)
    }

    func quietWorkEnded() {
        let failure = quietFailure
        quietFailure = nil
        if let client {
            if client.awaitsSpelling {
                client.spelled(by: self, failure: failure)
            } else if client.isApplyingSettings {
                client.settingsApplied(on: self, failure: failure)
            } else if client.isVerifyingPins {
                client.pinsVerified()
            } else if client.startupRestores > 0 {
                client.startupRestored(on: self, failure: failure)
            } else if client.followed?.asksNumber == true {
                client.followed?.asksNumber = false
            } else if let failure {
                client.beginFailed(on: self, failure)
            }
            return
        }
        if state == .warming {
            // It serves without as well, only that its first statements take longer.
            state = .idle
            return worker.serverOpened(self)
        }
        if failure != nil { return close() }
        settleIfQuiet()
    }

    /// The server has said why it goes. The end of the connection, of which a client is told, may come much later: a
    /// backend drops its temporary tables first. Nobody else gets it until then.
    func takeLeave(_ reason: ErrorResponse) {
        farewell = reason
        isOutdated = true
        if state == .idle { close() }
    }

    func settleIfQuiet() {
        guard state == .settling, session.isQuiet else { return }
        if cancelsLeft != nil { return close() }
        if cancelsInFlight > 0 { return }
        if !session.isFree { return runQuietly("ROLLBACK") }
        state = .idle
        worker.releaseServer(self)
    }

    func cancelStarted() { cancelsInFlight += 1 }

    func cancelEnded() {
        cancelsInFlight -= 1
        settleIfQuiet()
    }
}
