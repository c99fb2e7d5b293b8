import ArgumentParser
import Configuration
import Foundation
import Primitives
import Routing
import SQLAnalysis

/// `godwit explain --config F DB`
struct ExplainCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "explain",
        abstract: "Say where statements would go, without connecting to anything.",
        discussion: """
            Reads JSON lines from standard input: {"sql": "…"}, optionally with "user" (who is logged in), "setting" \
            (the value of the first setting among the key sources) and "params" (a list of texts for $1, $2, …). \
            Each is answered by one JSON line with kind, key, bucket, side and reason; key and bucket are null when \
            there is none. NEW is taken to be readable, up to date and healthy, and functions are taken to be \
            PostgreSQL's own: a running Godwit also knows those of the catalog. A line that is not of this form is \
            answered by {"error": "…"}, the others go on, and the exit status is then 1.
            """)

    @Option(help: "The configuration file.")
    var config: String

    @Argument(help: "A database of the configuration.")
    var database: String

    func run() throws {
        let settings: Settings
        do {
            settings = try SettingsFile.load(path: config)
        } catch {
            throw ValidationError("\(error)")
        }
        guard let database = settings.database(named: database) else {
            throw ValidationError("\(config) has no database '\(database)'")
        }
        var explainer = Explainer(RoutingTable(
            database.reads, rules: database.rules, hasUnlikeTables: !database.mirror.tables.isEmpty))
        var failed = false
        while let line = readLine() {
            if line.allSatisfy(\.isWhitespace) { continue }
            let answer = explainer.answer(line)
            failed = failed || answer.error != nil
            print(try Explainer.encode(answer))
        }
        if failed { throw ExitCode(1) }
    }
}

/// One line in, one line out.
struct Explainer {
    struct Question: Decodable {
        var sql: String
        var user: String?
        var setting: String?
        var params: [String?]?
    }

    /// The members in the order of the contract.
    struct Answer {
        var kind = ""
        var key: String?
        var bucket: String?
        var side = ""
        var reason = ""
        var error: String?
    }

    private let table: RoutingTable
    private let cache: AnalysisCache
    private let resolver: KeyResolver
    private let settingSource: Int?

    init(_ table: RoutingTable) {
        self.table = table
        cache = AnalysisCache(facts: .builtIn, keyPlan: table.keyPlan, seed: 0)
        resolver = KeyResolver(table: table)
        settingSource = table.keyPlan.sources.firstIndex { source in
            if case .setting = source { true } else { false }
        }
    }

    mutating func answer(_ line: String) -> Answer {
        let question: Question
        do {
            question = try JSONDecoder().decode(Question.self, from: Data(line.utf8))
        } catch {
            return Answer(error: "not a JSON object with a text member \"sql\"")
        }
        cache.beginTurn()
        var answer = Answer()
        Array(question.sql.utf8).withUnsafeBytes { text in
            let analysis = cache.analyse(text)
            let key = key(analysis, text, question)
            let identity = key.flatMap { resolver.identity(of: $0) }
            var request = RouteRequest(
                analysis.classification, horizon: HorizonFacts(isReadable: true, applied: .max))
            request.identity = identity
            let match = table.rules.match(analysis.statement, text, user: question.user ?? "")
            request.rule = match?.outcome
            let decision = Router.decide(request, by: table)
            answer.kind = "\(analysis.kind)"
            answer.key = key.map { String(decoding: $0, as: UTF8.self) }
            answer.bucket = identity.map { "\($0.bucket)" }
            answer.side = "\(decision.side)"
            answer.reason =
                match?.outcome == .deny ? "denied by rule \(table.rules.rules[match?.rule ?? 0].name)"
                : decision.reason == .notRead ? analysis.classification.reason.rawValue : decision.reason.description
        }
        return answer
    }

    private func key(_ analysis: Analysis, _ text: UnsafeRawBufferPointer, _ question: Question) -> [UInt8]? {
        let settingSource = question.setting == nil ? nil : settingSource
        switch table.keyChoice(text: analysis.key, settingSource: settingSource) {
        case .text(let reference):
            switch reference.form {
            case .parameter(let number): return parameter(number, question)
            case .parameters(let numbers):
                let keys = numbers.map { parameter($0, question) }
                return keys.allSatisfy { $0 == keys[0] } ? keys[0] : nil
            case .text, .urlEncoded, .literal: return reference.bytes(in: text)
            }
        case .setting: return question.setting.map { Array($0.utf8) }
        case .sessionUser: return question.user.map { Array($0.utf8) }
        case .none: return nil
        }
    }

    private func parameter(_ number: Int, _ question: Question) -> [UInt8]? {
        let params = question.params ?? []
        return number <= params.count ? params[number - 1].flatMap { RoutingKeyText.text(Array($0.utf8)) } : nil
    }

    static func encode(_ answer: Answer) throws -> String {
        if let error = answer.error { return "{\"error\": \(try text(error))}" }
        let key = try answer.key.map(text) ?? "null"
        let bucket = answer.bucket ?? "null"
        return """
            {"kind": \(try text(answer.kind)), "key": \(key), "bucket": \(bucket), \
            "side": \(try text(answer.side)), "reason": \(try text(answer.reason))}
            """
    }

    private static func text(_ text: String) throws -> String {
        let encoder = JSONEncoder()
        encoder.outputFormatting = .withoutEscapingSlashes
        return String(decoding: try encoder.encode(text), as: UTF8.self)
    }
}
