import Capture
import Glibc
import Logging
import Primitives
import Synchronization

/// The thread that writes one capture to its file. What it cannot write it drops: reactors never wait for it.
package final class CaptureWriter: Sendable {
    package let session: CaptureSession
    private let thread: OwnThread

    /// Makes the file and starts the thread.
    ///
    /// - Parameter redactionKey: nil: values are written as they are.
    /// - Parameter onEnd: called on the thread when the file is closed.
    package init(
        _ session: CaptureSession, bytesMax: Int, redactionKey: [UInt8]?, logger: Logger,
        onEnd: @escaping @Sendable (CaptureSession) -> Void
    ) throws(CaptureError) {
        self.session = session
        var flags: CaptureFormat.Flags = []
        if redactionKey != nil { flags.insert(.redacted) }
        if session.options.withDigest { flags.insert(.digests) }
        let file = try CaptureFileWriter(path: session.path, flags: flags)
        let beginning = CaptureBeginning(
            wallMicros: UInt64(max(0, WallClock.micros())), database: session.database,
            sampleHundredths: session.options.sampleHundredths, writer: "Godwit \(ConsoleTables.version)")
        try file.write(.begin, thread: 0, payload: beginning.payload)
        let handle = CaptureFileHandle(file)
        thread = OwnThread(name: "godwit-capture") {
            guard let file = handle.take() else { return }
            var loop = CaptureWriterLoop(session, file, bytesMax: bytesMax, redactionKey: redactionKey, logger)
            loop.run()
            onEnd(session)
        }
    }

    package func join() { thread.join() }
}

/// Hands the file to its thread.
private final class CaptureFileHandle: Sendable {
    private let file: Mutex<CaptureFileWriter?>

    init(_ file: sending CaptureFileWriter) { self.file = Mutex(file) }

    func take() -> sending CaptureFileWriter? {
        file.withLock { held in
            let taken = held
            held = nil
            return taken
        }
    }
}

private struct CaptureWriterLoop {
    private let session: CaptureSession
    private let file: CaptureFileWriter
    private let bytesMax: Int
    private var redactor: Redactor?
    private let logger: Logger
    private var hasFailed = false

    init(
        _ session: CaptureSession, _ file: CaptureFileWriter, bytesMax: Int, redactionKey: [UInt8]?, _ logger: Logger
    ) {
        self.session = session
        self.file = file
        self.bytesMax = bytesMax
        redactor = redactionKey.map { Redactor(key: $0) }
        self.logger = logger
        session.fileBytes.store(UInt64(file.size), ordering: .relaxed)
    }

    mutating func run() {
        let deadline = session.options.seconds.map { session.beganAt.advanced(bySeconds: $0) }
        while true {
            wait(until: session.isRunning ? deadline : nil)
            if session.isRunning, let deadline, deadline <= MonotonicInstant.now() {
                session.stop(because: "FOR is over")
            }
            var (chunks, isLast) = session.take()
            for index in chunks.indices {
                if !hasFailed { write(chunks[index]) }
                session.giveBack(&chunks[index])
            }
            if isLast { break }
        }
        if !hasFailed { addEnd() }
        session.fileBytes.store(UInt64(file.size), ordering: .relaxed)
        session.ended()
    }

    private func wait(until deadline: MonotonicInstant?) {
        var ready = pollfd(fd: session.wakeUp.descriptor, events: Int16(POLLIN), revents: 0)
        let millis = deadline.map { $0.nanoseconds(since: .now()) / 1_000_000 + 1 }
        _ = poll(&ready, 1, millis.map { CInt(min($0, 60_000)) } ?? -1)
    }

    private mutating func write(_ chunk: CaptureSession.Chunk) {
        if chunk.buffer.records == 0 { return }
        let records = UInt64(chunk.buffer.records)
        let bytes = UInt64(chunk.buffer.count)
        if redactor == nil {
            add(chunk.buffer, thread: chunk.thread)
        } else {
            redactAndAdd(chunk)
        }
        if hasFailed { return }
        session.records.add(records, ordering: .relaxed)
        session.recordBytes.add(bytes, ordering: .relaxed)
        session.fileBytes.store(UInt64(file.size), ordering: .relaxed)
        if session.isRunning && file.size >= bytesMax {
            session.stop(because: "the file has its size (MAX, capture.file_max)")
        }
    }

    private mutating func redactAndAdd(_ chunk: CaptureSession.Chunk) {
        var made = RecordBuffer(capacity: chunk.buffer.count)
        do throws(CaptureError) {
            for record in try RecordReader.records(of: chunk.buffer.bytes) {
                if let changed = redactor?.redact(record) { made.append(changed) }
            }
        } catch {
            return fail(error)
        }
        add(made, thread: chunk.thread)
    }

    private mutating func add(_ records: RecordBuffer, thread: Int) {
        do throws(CaptureError) {
            try file.write(records, thread: thread)
        } catch {
            fail(error)
        }
    }

    private mutating func addEnd() {
        do throws(CaptureError) {
            try file.write(.end, thread: 0, payload: [])
        } catch {
            fail(error)
        }
    }

    private mutating func fail(_ error: CaptureError) {
        hasFailed = true
        session.failed("\(error)")
        logger.error("capture of \"\(session.database)\" has ended: \(error)")
    }
}
