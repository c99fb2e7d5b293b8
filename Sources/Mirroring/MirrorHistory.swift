import LibPQ
import Primitives

/// Whether both sides are still the databases that they were.
extension MirrorSession {
    /// - Parameter control: of `CaptureSchema.history`.
    static func checkHistory(
        _ direction: MirrorDirection, _ progress: BatchApplier.Progress, _ control: Rows,
        _ lastAcknowledged: BatchApplier.Progress?
    ) throws(Failure) {
        let (source, target) = (direction.source.title, direction.target.title)
        let anew = "Run godwit prepare --remove, empty \(target)'s tables and prepare again"
        if control.integer(0, 0) != progress.epoch {
            throw .wrongHistory(
                "\(target) was prepared for another \(source) (or \(source) for another \(target) since): epoch "
                    + "\(progress.epoch) against \(control[0, 0] ?? ""). \(anew)")
        }
        if let identity = control[0, 2], identity != progress.source {
            throw .wrongHistory(
                "\(source) is not the server that it was (\(progress.source), now \(identity)): a failover or a "
                    + "restore. Commits may be missing on it. \(anew)")
        }
        var needed = control.integer(0, 3) ?? 0
        if let lastAcknowledged, lastAcknowledged.epoch == progress.epoch {
            needed = max(needed, lastAcknowledged.batch)
        }
        if needed > progress.batch {
            throw .wrongHistory(
                "\(target) has lost batches that it had committed (\(needed), now \(progress.batch)): "
                    + "a failover or a restore. \(anew)")
        }
        // Every batch is made durable on OLD before NEW takes it, so a later start must be later.
        if let next = control[0, 4].flatMap({ UInt64($0) }), next < progress.snapshot.xmax {
            throw .wrongHistory(
                "\(source) has lost transactions that \(target) holds (its next is \(next), \(target) has "
                    + "\(progress.snapshot.xmax)): a restore. \(anew)")
        }
    }
}
