/// What parses bytes that nobody vouches for. Each takes any bytes at all, and traps when something that must always
/// hold does not: that is what a fuzzer looks for. Pure, so that a test can run it over what was found before.
package enum FuzzTarget: String, CaseIterable, Sendable {
    /// What a client sends.
    case startup, login, unit, bind
    /// What a server sends.
    case serverSession, serverLogin, errorResponse
    /// SCRAM in both roles, secrets and passwords.
    case scramServer, scramClient, secret
    /// Files.
    case settings, manifest, userList, hba, ident, cohort, pattern
    /// What is found out about statements.
    case sql, key
    /// Captures, and what makes them.
    case capture, captureRecords, captureTap
    /// Servers' logs, in each form that captures are made of.
    case log

    package func run(_ bytes: [UInt8]) {
        switch self {
        case .startup: ClientFuzz.startup(bytes)
        case .login: ClientFuzz.login(bytes)
        case .unit: ClientFuzz.unit(bytes)
        case .bind: ClientFuzz.bind(bytes)
        case .serverSession: ServerFuzz.session(bytes)
        case .serverLogin: ServerFuzz.login(bytes)
        case .errorResponse: ServerFuzz.errorResponse(bytes)
        case .scramServer: ProofFuzz.server(bytes)
        case .scramClient: ProofFuzz.client(bytes)
        case .secret: ProofFuzz.secret(bytes)
        case .settings: FileFuzz.settings(bytes)
        case .manifest: FileFuzz.manifest(bytes)
        case .userList: FileFuzz.userList(bytes)
        case .hba: FileFuzz.hba(bytes)
        case .ident: FileFuzz.ident(bytes)
        case .cohort: FileFuzz.cohort(bytes)
        case .pattern: FileFuzz.pattern(bytes)
        case .sql: StatementFuzz.sql(bytes)
        case .key: StatementFuzz.key(bytes)
        case .capture: CaptureFuzz.file(bytes)
        case .captureRecords: CaptureFuzz.records(bytes)
        case .captureTap: CaptureFuzz.tap(bytes)
        case .log: LogFuzz.log(bytes)
        }
    }
}

/// Takes an input apart: choices first, then what is left.
struct FuzzInput {
    private var rest: ArraySlice<UInt8>

    init(_ bytes: [UInt8]) { rest = bytes[...] }

    var isAtEnd: Bool { rest.isEmpty }

    /// 0 behind the end.
    mutating func byte() -> UInt8 { rest.popFirst() ?? 0 }

    mutating func take(_ count: Int) -> [UInt8] {
        let taken = Array(rest.prefix(count))
        rest = rest.dropFirst(count)
        return taken
    }

    mutating func remainder() -> [UInt8] { take(rest.count) }
}

/// Where `bytes` is cut into pieces: the sizes are made of its own content, so that the fuzzer can change them.
func pieces(_ bytes: [UInt8]) -> [[UInt8]] {
    var result: [[UInt8]] = []
    var start = 0
    while start < bytes.count {
        let size = 1 + Int(bytes[start] ^ UInt8(truncatingIfNeeded: start)) % 17
        let end = min(start + size, bytes.count)
        result.append(Array(bytes[start..<end]))
        start = end
    }
    return result
}
