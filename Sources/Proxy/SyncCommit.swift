import Primitives
import Reactor

/// `mirror.mode: sync`: the answer to a commit is kept back until NEW has the commit, or `sync_wait` is over. The
/// server is free meanwhile, and the thread does other work. Used on its reactor's thread.
extension ClientConnection {
    /// The authority has acknowledged a commit, and nothing of it has gone to the client yet.
    func awaitCommit(_ database: DatabaseState) {
        let horizon = database.route.horizon
        guard horizon.isSynchronous else {
            horizon.countSync(inTime: false)
            return
        }
        let batch = horizon.taking + 1
        batchAwaited = batch
        worker.awaitCommit(self, batch, database)
    }

    /// NEW has the commit, or has taken too long: then commits are answered at once until it has caught up.
    func commitReached(inTime: Bool) {
        guard let batch = batchAwaited else { return }
        if let horizon = database?.route.horizon {
            horizon.countSync(inTime: inTime)
            if !inTime { horizon.fallBack(until: max(batch, horizon.taking + 1)) }
        }
        sendKept()
    }

    /// What was kept for NEW to have a commit first goes out.
    func sendKept() {
        batchAwaited = nil
        idleSince = worker.now
        sendFromServer(UnsafeRawBufferPointer(start: nil, count: 0))
        if phase != .closed && stream.count < SendQueue.lowWater { sourceGoesOn() }
        if hasEnded { worker.resumeLater(self) }
    }
}
