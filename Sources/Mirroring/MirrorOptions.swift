import LibPQ

/// How one mirror behaves. Immutable, any thread.
package struct MirrorOptions: Sendable, Equatable {
    /// Milliseconds between looks at the journal when nobody kicks.
    package var pollMillis: Int
    /// Rows of one range of the first copy at most: see CopyPace.
    package var backfillRows: Int
    /// Seconds without an applied batch after which reads leave NEW.
    package var lagMaxSeconds: Double
    /// Distinct changed keys up to which a batch travels as one query text; more go by COPY.
    package var smallBatchKeysMax = 1000
    /// Bytes of rows, and of keys, that go to NEW at once out of more.
    package var partBytesMax = 1 << 20
    /// Journal entries from which on OLD reads a batch's next table while the one before still travels.
    package var aheadEntriesMin: Int64 = 50_000
    /// Milliseconds from the start of one batch to the start of the next at least: several commits share a
    /// batch.
    package var batchIntervalMillis: UInt64 = 2
    /// The same where nobody waits for a batch: each takes processor and disk from those who write.
    package var quietIntervalMillis: UInt64 = 5

    /// Seconds between raises of sequences, rotations of the journal and looks at the catalogs and triggers.
    package var housekeepingSeconds = 2.0

    /// Tables that are other tables on NEW.
    package var mappings = TableMappings.none

    /// The first copy: rows a second, 0: any.
    package var copyRowsPerSecond = 0
    /// It rests while a batch of changes takes longer than this; 0: never.
    package var throttleLagSeconds = 0.0
    /// It rests while OLD has more active sessions than this; 0: never.
    package var throttleSessions = 0
    /// It rests while this query's first value on OLD is true; empty: never.
    package var throttleQuery = ""

    package init(pollMillis: Int = 20, backfillRows: Int = 10_000, lagMaxSeconds: Double = 30) {
        precondition(pollMillis > 0 && backfillRows > 0 && lagMaxSeconds > 0, "mirror options out of range")
        self.pollMillis = pollMillis
        self.backfillRows = backfillRows
        self.lagMaxSeconds = lagMaxSeconds
    }
}
