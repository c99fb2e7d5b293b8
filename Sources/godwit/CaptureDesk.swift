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
    /// The latest of each database, running or not.
    private var known: [String: CaptureSession] = [:]
    /// Those that wait until a file is closed.
    private var waiting: [(database: String, answer: (CaptureSession) -> Void)] = []

    init(_ server: ProxyServer, logger: Logger) {
        self.server = server
        self.logger = logger
    }

    /// - Returns: nil when the answer comes later.
    func take(
        _ database: String, _ command: CaptureCommand, worker: Int, client: ClientID, _ snapshot: ProxySnapshot
    ) -> ControlOutcome? {
        do throws(CaptureRefusal) {
            switch command {
            case .start(let order):
                try start(database, order, snapshot)
                return .done
            case .stop:
                try stop(database) { [server] _ in server.answer(worker: worker, client: client, .done) }
                return nil
            }
        } catch {
            return .refused(error.words)
        }
    }

    /// The same, asked by HTTP.
    ///
    /// - Parameter mayCommand: no other process has taken this one's place, or is about to.
    func take(
        _ asked: CaptureAsked, _ snapshot: ProxySnapshot, mayCommand: Bool,
        _ done: @escaping @Sendable (CaptureReply) -> Void
    ) {
        do throws(CaptureRefusal) {
            switch asked {
            case .command where !mayCommand: throw Self.ending
            case .list: done(.success(known.values.sorted { $0.database < $1.database }))
            case .command(let database, .start(let order)):
                try start(database, order, snapshot)
                done(.success([known[database]].compactMap { $0 }))
            case .command(let database, .stop): try stop(database) { done(.success([$0])) }
            }
        } catch {
            done(.failure(error))
        }
    }

    private func stop(_ database: String, _ answer: @escaping (CaptureSession) -> Void) throws(CaptureRefusal) {
        guard let writer = writers[database] else {
            throw CaptureRefusal(.unknown, "\"\(database)\" is not being captured")
        }
        waiting.append((database, answer))
        writer.session.stop(because: "CAPTURE STOP")
        server.end(writer.session)
    }

    private func start(
        _ database: String, _ order: CaptureCommand.Start, _ snapshot: ProxySnapshot
    ) throws(CaptureRefusal) {
        let settings = snapshot.settings.capture
        if settings.directory.isEmpty {
            throw CaptureRefusal(
                .conflict, "capture.directory is not set: Godwit has no place to write captures to")
        }
        guard snapshot.databases[database] != nil || snapshot.wildcard != nil else {
            throw CaptureRefusal(.unknown, "there is no database \"\(database)\"")
        }
        if let running = writers[database] {
            throw CaptureRefusal(.conflict, "\"\(database)\" is being captured to \(running.session.path)")
        }
        guard Self.isPlainName(order.file) else {
            throw CaptureRefusal(
                .unusable, "\"\(order.file)\" is no plain file name: captures go into \(settings.directory)")
        }
        var options = CaptureOptions()
        options.sampleHundredths = order.sampleHundredths
        options.seconds = order.seconds
        options.bytesMax = order.bytesMax
        // A digest has no key: of a row with few values whoever tries them all finds the one.
        options.withDigest = order.withDigest && !order.isRedacted
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
            throw CaptureRefusal(.conflict, "\(error)")
        }
        known[database] = session
        server.begin(session)
        logger.notice("capturing \"\(database)\" to \(session.path)")
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
        for one in waiting where one.database == session.database { one.answer(session) }
        waiting.removeAll { $0.database == session.database }
    }

    static let ending = CaptureRefusal(.ending, "Godwit is ending: ask the one that is started next")

    /// The reactors have ended, and with them what they had to write down.
    func join() {
        for writer in writers.values {
            writer.session.lanesAreGone()
            writer.join()
            for one in waiting where one.database == writer.session.database { one.answer(writer.session) }
        }
        waiting = []
        for case .captureAsked(_, let done) in server.control.take() { done(.failure(Self.ending)) }
    }
}
