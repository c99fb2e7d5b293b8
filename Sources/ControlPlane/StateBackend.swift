/// One value of a statement. Immutable, any thread.
enum StateValue: Sendable, Equatable {
    case text(String)
    case integer(Int64)
    case flag(Bool)
    case null

    init(_ flag: Bool?) { self = flag.map { .flag($0) } ?? .null }
}

/// A statement that SQLite and PostgreSQL understand alike; each `?` stands for a value. Immutable, any thread.
struct StateStatement: Sendable {
    var text: String
    var values: [StateValue]

    init(_ text: String, _ values: StateValue...) {
        self.text = text
        self.values = values
    }
}

/// The columns of one row in their order, as text. Immutable, any thread.
struct StateRow: Sendable, Equatable {
    private let columns: [String?]

    init(_ columns: [String?]) { self.columns = columns }

    func text(_ column: Int) -> String { columns[column] ?? "" }

    func integer(_ column: Int) -> Int64 { columns[column].flatMap { Int64($0) } ?? 0 }

    /// nil: it is NULL.
    func flag(_ column: Int) -> Bool? { columns[column].map { $0 == "t" || $0 == "1" } }
}

/// Who runs the migrations of a state store. Immutable value, any thread.
package enum StateTerm: Sendable, Equatable {
    /// This process, by this number; each that begins has a greater one.
    case ours(Int64)
    /// Another one. The address of its HTTP: empty: not known.
    case others(process: String, address: String)
    /// Nobody, as far as is known yet.
    case nobody
    /// The store does not answer: it may be another one by now.
    case unknown(reason: String)
}

/// Keeps records: in an SQLite file of one machine's, or in a PostgreSQL database that several Godwits share. Any
/// thread.
protocol StateBackend: Sendable {
    /// Where it is, for people.
    var place: String { get }
    /// Several Godwits work with it, on several machines.
    var isShared: Bool { get }
    /// Why it could not be had when this process began; nil: it could.
    var absence: StateStore.Failure? { get }

    /// All of them or none. Waits until it lasts.
    ///
    /// - Parameter term: nil: anybody's word. Otherwise it is refused when another process runs the migrations by now.
    /// - Returns: the rows of the last one.
    func write(_ statements: [StateStatement], term: Int64?) throws(StateStore.Failure) -> [StateRow]

    /// In the order of the calls, among `write`'s. Does not wait.
    ///
    /// - Parameter then: the rows of the last one, on a thread of the backend's.
    func writeLater(
        _ statements: [StateStatement], term: Int64?,
        then: @escaping @Sendable (Result<[StateRow], StateStore.Failure>) -> Void)

    func read(_ statement: StateStatement) throws(StateStore.Failure) -> [StateRow]

    /// Who runs the migrations; the first call asks for it to be us.
    func term() -> StateTerm

    /// The same, and asks for nothing.
    var present: StateTerm { get }

    /// We run none from now on.
    func resign()

    /// - Parameters:
    ///   - term: told of each change of who runs the migrations, and of the present one.
    ///   - news: told when another process may have written what concerns all.
    func observe(term: @escaping @Sendable (StateTerm) -> Void, news: @escaping @Sendable () -> Void)
}
