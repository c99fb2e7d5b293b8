import PGWire
import SQLAnalysis
import Sessions
import Testing

/// Texts are analysed as in the proxy; a unit's outcome is what PostgreSQL answers to it.
@Suite struct SessionLedgerTests {
    private var ledger = SessionLedger()
    private var settled: [SessionEffect] = []

    /// - Parameter tags: of its COMMIT, ROLLBACK and ROLLBACK TO, as answered.
    private mutating func unit(
        _ text: String, _ status: TransactionStatus, tags: [String] = [], failedAfter completed: Int? = nil,
        hasFailed: Bool = false
    ) {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: KeyPlan([]), seed: 1)
        let steps = Array(text.utf8).withUnsafeBytes { cache.analyse($0).statement.classification.steps }
        settled += ledger.settle(steps, SessionLedger.Outcome(
            hasFailed: hasFailed || completed != nil, status: status, completed: completed,
            rolledBack: tags.map { $0 == "ROLLBACK" }))
    }

    /// `a=1 b=2`: the settings that stay, in order; others by their names.
    private var words: String {
        settled.map { effect in
            switch effect {
            case .sets(let change): "\(change.name)=\(change.value ?? "default")"
            case .pins(let reason): "\(reason)"
            case .deallocates(let name): "deallocate \(name ?? "all")"
            case .discards: "discard"
            case .resets, .resetsAll, .prepares, .closesCursor, .unlistens, .unlocks, .changesBothSides: "\(effect)"
            }
        }.joined(separator: " ")
    }

    @Test mutating func `outside of a transaction it stays at once`() {
        unit("set work_mem = 1", .idle)
        #expect(words == "work_mem=1" && ledger.isEmpty)
        unit("set work_mem = 2; select 1/0", .idle, failedAfter: 1)
        #expect(words == "work_mem=1", "one text is one transaction")
    }

    @Test mutating func `a transaction decides`() {
        unit("begin", .inTransaction)
        unit("set work_mem = 1", .inTransaction)
        unit("select 1/0", .failed, failedAfter: 0)
        #expect(words == "")
        unit("commit", .idle, tags: ["ROLLBACK"])
        #expect(words == "" && ledger.isEmpty)
        unit("begin; set work_mem = 2; commit; begin; set jit = off; rollback", .idle, tags: ["COMMIT", "ROLLBACK"])
        #expect(words == "work_mem=2")
    }

    @Test mutating func `savepoints decide`() {
        unit("begin", .inTransaction)
        unit("set work_mem = 1", .inTransaction)
        unit("savepoint s", .inTransaction)
        unit("set work_mem = 2", .inTransaction)
        unit("savepoint t; set jit = off", .inTransaction)
        unit("release t", .inTransaction)
        unit("rollback to t", .failed, failedAfter: 0)
        unit("rollback to s", .inTransaction, tags: ["ROLLBACK"])
        unit("set geqo = off", .inTransaction)
        unit("rollback to s; set geqo = on", .inTransaction, tags: ["ROLLBACK"])
        unit("commit", .idle, tags: ["COMMIT"])
        #expect(words == "work_mem=1 geqo=on")
    }

    @Test mutating func `a savepoint before the first change undoes all`() {
        unit("begin; savepoint s", .inTransaction)
        unit("set work_mem = 1", .inTransaction)
        unit("savepoint s", .inTransaction)
        unit("release s", .inTransaction)
        unit("rollback to s", .inTransaction, tags: ["ROLLBACK"])
        unit("commit", .idle, tags: ["COMMIT"])
        #expect(words == "")
    }

    /// DDL that the other side has as well.
    private mutating func change(_ status: TransactionStatus = .inTransaction) {
        let hasFailed = status == .failed
        settled += ledger.settle([SessionStep(statement: 0, .effect(.changesBothSides))], SessionLedger.Outcome(
            hasFailed: hasFailed, status: status, completed: hasFailed ? 0 : 1, rolledBack: []))
    }

    @Test mutating func `of DDL within a transaction stands what no savepoint has taken back`() {
        unit("begin", .inTransaction)
        #expect(!ledger.hasSavepoint)
        change()
        unit("savepoint s", .inTransaction)
        change()
        unit("savepoint s", .inTransaction)
        change()
        change(.failed)
        #expect(ledger.standingChanges == 3 && ledger.hasSavepoint)
        unit("rollback to s", .inTransaction, tags: ["ROLLBACK"])
        #expect(ledger.standingChanges == 2)
        unit("release s; savepoint t", .inTransaction)
        change()
        unit("rollback to s", .inTransaction, tags: ["ROLLBACK"])
        #expect(ledger.standingChanges == 1)
        unit("rollback to t", .failed, failedAfter: 0)
        unit("rollback to s; release s", .inTransaction, tags: ["ROLLBACK"])
        #expect(ledger.standingChanges == 1 && !ledger.isUncertain)
        // Whether the savepoint was set before the error cannot be told.
        unit("savepoint t; select 1/0", .failed, hasFailed: true)
        #expect(ledger.isUncertain)
        unit("rollback", .idle, tags: ["ROLLBACK"])
        #expect(ledger.standingChanges == 0 && !ledger.hasSavepoint)
    }

    @Test mutating func `what is prepared or deallocated in a transaction is so at once, and stays`() {
        unit("begin", .inTransaction)
        unit("deallocate all", .inTransaction)
        #expect(words == "deallocate all")
        unit("prepare p as select 1", .inTransaction)
        #expect(words == "deallocate all prepares(\"p\")")
        unit("select 1/0", .failed, failedAfter: 0)
        unit("deallocate p", .failed, failedAfter: 0)
        unit("rollback", .idle, tags: ["ROLLBACK"])
        #expect(words == "deallocate all prepares(\"p\")")
    }

    @Test mutating func `what a failed block refuses was not done`() {
        unit("begin", .inTransaction)
        unit("set work_mem = 1", .inTransaction)
        unit("savepoint s", .inTransaction)
        unit("select 1/0", .failed, failedAfter: 0)
        unit("set jit = off", .failed, failedAfter: 0)
        unit("listen x", .failed, failedAfter: 0)
        unit("savepoint t", .failed, failedAfter: 0)
        unit("rollback to s; set geqo = off", .inTransaction, tags: ["ROLLBACK"])
        unit("commit", .idle, tags: ["COMMIT"])
        #expect(words == "work_mem=1 geqo=off")
    }

    @Test mutating func `the statements before an error in one text count, those behind do not`() {
        unit("begin; set work_mem = 1; commit; set jit = off; select 1/0; set geqo = off", .idle, tags: ["COMMIT"],
             failedAfter: 4)
        #expect(words == "work_mem=1")
        unit("deallocate all; select 1/0", .idle, failedAfter: 1)
        #expect(words == "work_mem=1 deallocate all", "no rollback brings it back")
        unit("select 1/0; deallocate all", .idle, failedAfter: 0)
        #expect(words == "work_mem=1 deallocate all")
    }

    @Test mutating func `an error does not free an advisory lock`() {
        unit("select pg_advisory_lock(1), 1/0", .idle, failedAfter: 0)
        #expect(words == "advisoryLock")
    }

    @Test mutating func `a chain goes on`() {
        unit("begin; set work_mem = 1; commit and chain; set jit = off", .inTransaction, tags: ["COMMIT"])
        #expect(words == "work_mem=1")
        unit("rollback", .idle, tags: ["ROLLBACK"])
        #expect(words == "work_mem=1")
    }

    @Test mutating func `what cannot be told is said to be uncertain`() {
        unit("set work_mem = 1", .idle, hasFailed: true)
        #expect(ledger.isUncertain)
        ledger.removeAll()
        #expect(!ledger.isUncertain && ledger.isEmpty)
        unit("begin", .inTransaction)
        for number in 0...SessionLedger.entriesMax { unit("set work_mem = \(number)", .inTransaction) }
        #expect(ledger.isUncertain)
    }

    @Test mutating func `a failed transaction refuses what it has not seen, and that is certain`() {
        unit("begin", .inTransaction)
        unit("select 1/0", .failed, failedAfter: 0)
        for text in ["prepare s as select 1", "discard plans", "set work_mem = 1", "savepoint s", "begin", "release s"] {
            unit(text, .failed, hasFailed: true)
        }
        #expect(!ledger.isUncertain)
        unit("rollback", .idle, tags: ["ROLLBACK"])
        #expect(words == "" && ledger.isEmpty)
    }

    @Test mutating func `what follows the end of a failed transaction may have run`() {
        for end in ["rollback", "commit", "rollback to t"] {
            unit("begin; savepoint t", .inTransaction)
            unit("select 1/0", .failed, failedAfter: 0)
            unit("\(end); set work_mem = 1; select 1/0", .failed, hasFailed: true)
            #expect(ledger.isUncertain, "\(end)")
            ledger.removeAll()
        }
    }
}
