import Primitives
import Synchronization

/// What the console orders. Immutable, any thread.
package struct CaptureOptions: Equatable, Sendable {
    /// Of the connections, in hundredths of a percent.
    package var sampleHundredths = 10_000
    /// nil: until it is stopped.
    package var seconds: Double?
    /// Of the file; nil: as the configuration has it.
    package var bytesMax: Int?
    package var withDigest = false
    package var isRedacted = false

    package init() {}
}

/// One capture: what reactors hand over and the writer takes, and how far it is. Any thread.
///
/// Bounded: what waits for the writer is at most `waitingBytesMax` for each reactor. Reactors never wait.
package final class CaptureSession: Sendable {
    package enum State: String, Sendable { case running, stopping, ended, failed }

    /// Bytes of records before they are handed over.
    package static let chunkBytes = 128 * 1024
    package static let waitingBytesMax = 16 * 1024 * 1024

    /// A reactor's records.
    package struct Chunk: Sendable {
        package var thread: Int
        package var buffer: RecordBuffer
    }

    private struct Queue {
        var waiting: [Chunk] = []
        var waitingBytes: [Int]
        var free: [RecordBuffer] = []
        /// Reactors that have handed over their last records.
        var lanesEnded = 0
    }

    package let database: String
    package let path: String
    package let options: CaptureOptions
    package let beganAt: MonotonicInstant
    /// Chooses the connections of a sample.
    package let seed: UInt64
    package let threads: Int
    package let copyBytesMax: Int
    private let queue: Mutex<Queue>
    private let outcome = Mutex<(state: State, reason: String)>((.running, ""))
    /// Wakes the writer.
    package let wakeUp: CaptureWakeUp

    private let isTaking = Atomic<Bool>(true)
    private let lastNumber = Atomic<UInt64>(0)
    package let connections = Atomic<UInt64>(0)
    package let dropped = Atomic<UInt64>(0)
    package let records = Atomic<UInt64>(0)
    package let recordBytes = Atomic<UInt64>(0)
    package let fileBytes = Atomic<UInt64>(0)

    package init(
        database: String, path: String, options: CaptureOptions, beganAt: MonotonicInstant, seed: UInt64, threads: Int,
        copyBytesMax: Int
    ) {
        precondition(threads >= 1, "a capture without reactors")
        self.database = database
        self.path = path
        self.options = options
        self.beganAt = beganAt
        self.seed = seed
        self.threads = threads
        self.copyBytesMax = copyBytesMax
        queue = Mutex(Queue(waitingBytes: Array(repeating: 0, count: threads)))
        wakeUp = CaptureWakeUp()
    }

    /// Reactors add to it.
    package var isRunning: Bool { isTaking.load(ordering: .relaxed) }

    /// The place of what happens now among all that is written down.
    ///
    /// Drawn when a client's bytes have been read, and before bytes for a client are written: whoever asks after having
    /// seen an answer, on whichever connection and thread, has the higher number. The clock does not say so: what one
    /// turn of a reactor handles has one time.
    ///
    /// A call: inlined, its caller counts a reference to the session around it, which takes longer.
    @inline(never)
    package func nextNumber() -> UInt64 { lastNumber.wrappingAdd(1, ordering: .relaxed).newValue }

    package var state: State { outcome.withLock { $0.state } }
    package var reason: String { outcome.withLock { $0.reason } }

    /// No more records are taken. Any thread; the writer ends when all lanes have ended.
    package func stop(because reason: String) {
        outcome.withLock { if $0.state == .running { $0 = (.stopping, reason) } }
        isTaking.store(false, ordering: .relaxed)
        wakeUp.signal()
    }

    /// The writer has closed the file.
    package func ended() { outcome.withLock { if $0.state != .failed { $0.state = .ended } } }

    package func failed(_ reason: String) {
        outcome.withLock { $0 = (.failed, reason) }
        isTaking.store(false, ordering: .relaxed)
    }

    // MARK: reactors

    /// - Returns: an empty buffer in exchange; nil when too much waits, and `buffer` was not taken.
    package func handOver(_ buffer: RecordBuffer, of thread: Int) -> RecordBuffer? {
        let size = buffer.count
        let next: RecordBuffer?? = queue.withLock { queue in
            if queue.waitingBytes[thread] > 0 && queue.waitingBytes[thread] + size > Self.waitingBytesMax {
                return .none
            }
            queue.waitingBytes[thread] += size
            queue.waiting.append(Chunk(thread: thread, buffer: buffer))
            return .some(queue.free.popLast())
        }
        guard let next else { return nil }
        wakeUp.signal()
        return next ?? RecordBuffer(capacity: Self.chunkBytes)
    }

    package func laneEnded(_ buffer: RecordBuffer, of thread: Int) {
        queue.withLock { queue in
            if buffer.records > 0 { queue.waiting.append(Chunk(thread: thread, buffer: buffer)) }
            queue.lanesEnded += 1
        }
        wakeUp.signal()
    }

    /// All reactors have ended: what they have not handed over does not come.
    package func lanesAreGone() {
        queue.withLock { $0.lanesEnded = threads }
        stop(because: "Godwit has ended")
    }

    // MARK: the writer

    /// - Returns: what waits, and whether nothing comes after it.
    package func take() -> (chunks: [Chunk], isLast: Bool) {
        wakeUp.drain()
        return queue.withLock { queue in
            let taken = queue.waiting
            queue.waiting = []
            return (taken, queue.lanesEnded == threads)
        }
    }

    /// A chunk is in the file: its memory may be used again.
    package func giveBack(_ chunk: inout Chunk) {
        let (thread, size) = (chunk.thread, chunk.buffer.count)
        // Taken out of the chunk: shared memory would be copied.
        var buffer = RecordBuffer(capacity: 0)
        swap(&buffer, &chunk.buffer)
        let isUsual = buffer.capacity <= 2 * Self.chunkBytes
        if isUsual { buffer.removeAll() }
        queue.withLock { queue in
            queue.waitingBytes[thread] = max(0, queue.waitingBytes[thread] - size)
            if isUsual && queue.free.count < 2 * threads { queue.free.append(buffer) }
        }
    }
}

/// An eventfd. Any thread.
package final class CaptureWakeUp: Sendable {
    private let mailbox = Mailbox<Int>()

    package init() {}

    package var descriptor: CInt { mailbox.descriptor }
    package func signal() { Primitives.signal(eventDescriptor: mailbox.descriptor) }
    package func drain() { Primitives.drain(eventDescriptor: mailbox.descriptor) }
}

/// One reactor's part in a capture. Used on that reactor's thread.
package final class CaptureLane {
    package let session: CaptureSession
    private let thread: Int
    var buffer = RecordBuffer(capacity: CaptureSession.chunkBytes)
    private var lastConnection: UInt64 = 0
    /// Connections of which nothing more is kept and that are not marked so, for there was no room.
    private var untold: [UInt64] = []
    private var lastMicros: UInt64 = 0
    private var hasEnded = false
    let withDigest: Bool
    let isRedacted: Bool
    let copyBytesMax: Int

    package init(_ session: CaptureSession, thread: Int) {
        precondition(thread < session.threads, "a reactor that the capture does not know")
        self.session = session
        self.thread = thread
        withDigest = session.options.withDigest
        isRedacted = session.options.isRedacted
        copyBytesMax = session.copyBytesMax
    }

    package func micros(_ now: MonotonicInstant) -> UInt64 { now.microseconds(since: session.beganAt) }

    /// Whether a connection is in the sample.
    package func wants(_ client: UInt64) -> Bool {
        if session.options.sampleHundredths >= 10_000 { return true }
        // SplitMix64's finish: neighbouring numbers are far apart.
        var mixed = client &* UInt64(session.threads) &+ UInt64(thread) &+ session.seed
        mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
        mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
        return Int((mixed ^ (mixed >> 31)) % 10_000) < session.options.sampleHundredths
    }

    func nextConnection() -> UInt64 {
        session.connections.add(1, ordering: .relaxed)
        lastConnection += 1
        return lastConnection * UInt64(session.threads) + UInt64(thread)
    }

    /// A capture that has ended drops nobody.
    func countDropped() { if session.isRunning { session.dropped.add(1, ordering: .relaxed) } }

    /// - Parameter count: bytes of the next record's body.
    func makeRoom(_ count: Int) -> Bool {
        if buffer.count + count + RecordBuffer.overhead <= CaptureSession.chunkBytes { return true }
        if count > CaptureFormat.messageMax || hasEnded { return false }
        if buffer.records == 0 { return true }
        guard session.isRunning, let next = session.handOver(buffer, of: thread) else { return false }
        buffer = next
        return true
    }

    func append(_ record: CaptureRecord) -> Bool {
        let body = RecordBody(record.content)
        guard makeRoom(body.bytes.count) else { return false }
        buffer.append(body, of: record)
        return true
    }

    /// Nothing more of this connection is kept. It is marked so when there is room: by then it may be gone, and whoever
    /// plays it would hold it open, with all that its transaction has locked.
    func tellDropped(_ connection: UInt64, _ micros: UInt64) {
        if !session.isRunning { return }
        lastMicros = micros
        untold.append(connection)
        tellDropped()
    }

    private func tellDropped() {
        while let connection = untold.last, append(dropped(connection)) { untold.removeLast() }
    }

    private func dropped(_ connection: UInt64) -> CaptureRecord {
        CaptureRecord(connection: connection, micros: lastMicros, number: session.nextNumber(), content: .dropped)
    }

    /// What has gathered goes to the file though it is little: somebody may follow it.
    package func flush() {
        if hasEnded { return }
        if buffer.records > 0, let next = session.handOver(buffer, of: thread) { buffer = next }
        tellDropped()
    }

    /// The last records; nothing may be added any more.
    package func end() {
        if hasEnded { return }
        hasEnded = true
        for connection in untold { buffer.append(dropped(connection)) }
        session.laneEnded(buffer, of: thread)
        buffer = RecordBuffer(capacity: 0)
    }
}
