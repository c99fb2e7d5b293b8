import Capture
import Configuration
import Console
import Digests
import Glibc
import Logging
import Primitives
import Proxy
import Synchronization

/// Begins and ends captures as the console says. Used on the control thread.
final class CaptureDesk {
    private let server: ProxyServer
    private let logger: Logger
    /// By database; one each.
    private var writers: [String: CaptureWriter] = [:]
    /// Consoles that wait until a file is closed.
    private var waiting: [(database: String, worker: Int, client: ClientID)] = []

    init(_ server: ProxyServer, logger: Logger) {
        self.server = server
        self.logger = logger
    }

    /// - Returns: nil when the answer comes later.
    func take(
        _ database: String, _ command: CaptureCommand, worker: Int, client: ClientID, _ snapshot: ProxySnapshot
    ) -> ControlOutcome? {
        switch command {
        case .start(let order): return start(database, order, snapshot)
        case .stop:
            guard let writer = writers[database] else { return .refused("\"\(database)\" is not being captured") }
            waiting.append((database, worker, client))
            writer.session.stop(because: "CAPTURE STOP")
            server.end(writer.session)
            return nil
        }
    }

    private func start(_ database: String, _ order: CaptureCommand.Start, _ snapshot: ProxySnapshot) -> ControlOutcome {
        let settings = snapshot.settings.capture
        if settings.directory.isEmpty {
            return .refused("capture.directory is not set: Godwit has no place to write captures to")
        }
        guard snapshot.databases[database] != nil || snapshot.wildcard != nil else {
            return .refused("there is no database \"\(database)\"")
        }
        if let running = writers[database] {
            return .refused("\"\(database)\" is being captured to \(running.session.path)")
        }
        guard Self.isPlainName(order.file) else {
            return .refused("\"\(order.file)\" is no plain file name: captures go into \(settings.directory)")
        }
        var options = CaptureOptions()
        options.sampleHundredths = order.sampleHundredths
        options.seconds = order.seconds
        options.bytesMax = order.bytesMax
        options.withDigest = order.withDigest
        options.isRedacted = order.isRedacted
        let session = CaptureSession(
            database: database, path: settings.directory + "/" + order.file, options: options, beganAt: .now(),
            seed: UInt64.random(in: .min ... .max), threads: server.threadCount, copyBytesMax: settings.copyBytesMax)
        do throws(CaptureError) {
            writers[database] = try CaptureWriter(
                session, bytesMax: order.bytesMax ?? settings.fileBytesMax,
                redactionKey: order.isRedacted ? Digest.randomBytes(32) : nil, logger: logger,
                onEnd: { [control = server.control] in control.post(.captureEnded($0)) })
        } catch {
            return .refused("\(error)")
        }
        server.begin(session)
        logger.notice("capturing \"\(database)\" to \(session.path)")
        return .done
    }

    /// The directory is the configuration's to choose, and nothing in a name may lead out of it.
    private static func isPlainName(_ name: String) -> Bool {
        let bytes = Array(name.utf8)
        return (1...200).contains(bytes.count) && bytes[0] != UInt8(ascii: ".")
            && !bytes.contains { $0 == UInt8(ascii: "/") || $0 < 0x20 || $0 == 0x7F }
    }

    /// A file is closed: by order, by its limits, or for lack of room.
    func ended(_ session: CaptureSession) {
        guard let writer = writers[session.database], writer.session === session else { return }
        writer.join()
        writers[session.database] = nil
        let records = session.records.load(ordering: .relaxed)
        let dropped = session.dropped.load(ordering: .relaxed)
        let end = "\(records) records, \(dropped) connections dropped"
        logger.notice("capture of \"\(session.database)\" ended (\(session.reason)): \(end)")
        for console in waiting where console.database == session.database {
            server.answer(worker: console.worker, client: console.client, .done)
        }
        waiting.removeAll { $0.database == session.database }
    }

    /// The reactors have ended, and with them what they had to write down.
    func join() {
        for writer in writers.values {
            writer.session.lanesAreGone()
            writer.join()
        }
    }
}
