import Configuration
import PGWire
import Primitives
import Routing
import SQLAnalysis
import Sessions

/// What rules, bound keys and statistics need to know of a client's present unit.
struct UnitNotes {
    /// A Parse of this unit whose key will be in a Bind.
    struct Parsed {
        var name: [UInt8]
        var analysis: AnalysedStatement
        /// The text's own.
        var key: StatementKey?
        /// The message's body behind the text: parameter types.
        var types: [UInt8]
    }

    enum Denial {
        /// Index of the rule.
        case rule(Int)
        /// It would change tables that are mirrored.
        case mirror
        /// A READ ONLY transaction has its snapshot on NEW, and this must not run there.
        case onNew
        /// See FollowedTransaction: its error is kept there.
        case followed

        /// What `init(word:)` reads again.
        var word: String {
            switch self {
            case .rule(let index): "rule_\(index)"
            case .mirror: "mirror"
            case .onNew: "on_new"
            case .followed: "followed"
            }
        }

        init?(word: Substring) {
            if word.hasPrefix("mirror") {
                self = .mirror
            } else if word.hasPrefix("on_new") {
                self = .onNew
            } else if word.hasPrefix("followed") {
                self = .followed
            } else if word.hasPrefix("rule_"), let index = Int(word.dropFirst(5).prefix { $0.isASCII && $0.isNumber }) {
                self = .rule(index)
            } else {
                return nil
            }
        }
    }

    /// Statements with bound keys that one unit may prepare; the keys of further ones are not found.
    private static let parsedMax = 64

    private(set) var parsed: [Parsed] = []
    /// There were further ones: what is bound to a name that is not among them may have a key.
    private(set) var hidesKeys = false
    /// The first statement.
    private(set) var statement: AnalysedStatement?
    /// The strictest word of the rules: `new` only where they say it of every statement.
    private(set) var outcome: RuleSet.Outcome?
    /// Who denies the first statement that is denied.
    private(set) var deniedBy: Denial?
    /// Statements that are denied.
    private(set) var denials = 0
    /// Offset of the message with the first of them, in the bytes of a gathered unit.
    var deniedStart: Int?
    private(set) var changesSchema = false
    /// A statement is of a shape that goes back alone.
    var hasDemoted = false
    /// Of all its results, as their command tags say.
    private(set) var rows: UInt64 = 0

    mutating func add(_ analysis: AnalysedStatement, _ match: RuleSet.Match?, deniedBy denial: Denial?) {
        let isFirst = statement == nil
        if isFirst { statement = analysis }
        if analysis.classification.changesSchema { changesSchema = true }
        if denial != nil { denials += 1 }
        if deniedBy == nil { deniedBy = denial }
        switch (outcome, match?.outcome) {
        case (.deny, _): break
        case (_, .deny):
            outcome = .deny
        case (.old, _): break
        case (_, .old): outcome = .old
        case (.new, .new): break
        case (.new, nil): outcome = nil
        case (nil, .new): outcome = isFirst ? .new : nil
        case (nil, nil): break
        }
    }

    /// The same for a first statement that no rule meets, and back again.
    mutating func addPlainRead(_ analysis: consuming AnalysedStatement) { statement = analysis }

    mutating func removePlainRead() {
        statement = nil
        rows = 0
        if !parsed.isEmpty { parsed.removeAll(keepingCapacity: true) }
    }

    mutating func deny(_ denial: Denial) {
        denials += 1
        deniedBy = denial
    }

    mutating func noteParse(
        _ name: UnsafeRawBufferPointer, _ analysis: AnalysedStatement, _ key: StatementKey?, types: BodyReader
    ) {
        guard analysis.hasBoundKey else {
            // Most of a pipeline have the same name, none.
            if !parsed.isEmpty { parsed.removeAll { $0.name.elementsEqual(name) } }
            return
        }
        var types = types
        let entry = Parsed(name: Array(name), analysis: analysis, key: key, types: Array(types.rest()))
        if let index = parsed.firstIndex(where: { $0.name == entry.name }) {
            parsed[index] = entry
        } else if parsed.count < Self.parsedMax {
            parsed.append(entry)
        } else {
            hidesKeys = true
        }
    }

    /// `SELECT 5`, `INSERT 0 1`: the last number of a command tag.
    mutating func noteRows(_ tag: UnsafeRawBufferPointer) {
        var number: UInt64 = 0
        var unit: UInt64 = 1
        var place = tag.count
        while place > 0 {
            place -= 1
            let byte = tag[place]
            if byte == 0 { continue }
            guard byte &- 0x30 < 10, unit < 10_000_000_000_000 else { break }
            number &+= UInt64(byte &- 0x30) &* unit
            unit &*= 10
        }
        rows &+= number
    }
}

extension ClientConnection {
    // MARK: rules

    /// Analyses a text as it will run: rules are asked first, and may replace names in it.
    func look(at text: UnsafeRawBufferPointer, _ database: DatabaseState) -> (AnalysedStatement, StatementKey?) {
        if let found = analysedLoosely(text, database) {
            noteStatement(found.0, text, database)
            return found
        }
        let found = worker.takeAnalysed() ?? database.analyse(text)
        noteStatement(found.0, text, database)
        guard let rewritten = database.rewritten(text, found.0, user: user, isCounted: true) else { return found }
        return rewritten.withUnsafeBytes { database.analyse($0) }
    }

    /// What the text does in a session that lets backslashes escape in plain quotes: it is read nowhere but on the
    /// authority, yet what it leaves, and whose it is, counts.
    ///
    /// - Returns: nil: what it does elsewhere.
    func analysedLoosely(
        _ text: @autoclosure () -> UnsafeRawBufferPointer, _ database: DatabaseState
    ) -> (AnalysedStatement, StatementKey?)? {
        if hasStandardStrings { return nil }
        return LooseStrings.standard(text())?.withUnsafeBytes { database.analyse($0) }
    }

    /// Of a Parse's body, its text as it is read in this session.
    func analyse(parseBody: [UInt8], _ database: DatabaseState) -> (AnalysedStatement, StatementKey?) {
        parseBody.withUnsafeBytes { body in
            analysedLoosely(UnsafeRawBufferPointer(rebasing: body.prefix { $0 != 0 }), database)
        } ?? database.analyse(parseBody: parseBody)
    }

    /// Also for a statement that was prepared before. `text` may go on behind a NUL.
    func noteStatement(_ analysis: AnalysedStatement, _ text: UnsafeRawBufferPointer, _ database: DatabaseState) {
        if database.shapes.hasDemoted && database.shapes.holdsBack(analysis, now: worker.now) {
            unit.notes.hasDemoted = true
        }
        let rules = database.route.table.rules
        let mirrorDenial: UnitNotes.Denial? = isDeniedByMirror(analysis, database) ? .mirror : nil
        if rules.isEmpty { return unit.notes.add(analysis, nil, deniedBy: mirrorDenial) }
        let end = text.firstIndex(of: 0) ?? text.count
        let match = rules.match(analysis, UnsafeRawBufferPointer(rebasing: text[0..<end]), user: user)
        if let match { database.count(rule: match.rule) }
        let denial = match.flatMap { $0.outcome == .deny ? UnitNotes.Denial.rule($0.rule) : nil }
        unit.notes.add(analysis, match, deniedBy: denial ?? mirrorDenial)
    }

    /// A Query that goes on before it is whole is met by what has come of it.
    ///
    /// - Returns: whether it is denied. The connection is closed then: its end may never come.
    func deniesHead(_ text: UnsafeRawBufferPointer) -> Bool {
        guard let database else { return false }
        let denials = unit.notes.denials
        noteStatement(database.analysis.analyse(head: text), text, database)
        return closesIfDenied(since: denials)
    }

    /// The same of a Bind: what it binds may have been prepared when no rule met it.
    func deniesHead(ofBind body: UnsafeRawBufferPointer) -> Bool {
        guard let database else { return false }
        let denials = unit.notes.denials
        var reader = BodyReader(body)
        noteBind(&reader, database)
        return closesIfDenied(since: denials)
    }

    private func closesIfDenied(since denials: Int) -> Bool {
        guard unit.notes.denials > denials, let denial = unit.notes.deniedBy else { return false }
        close(with: fatal(refusal(denial)))
        return true
    }

    private func refusal(_ denial: UnitNotes.Denial) -> ErrorResponse {
        switch denial {
        case .onNew: return refusalOnNew(.error)
        case .followed: return followed?.refusal ?? refusalOfChange
        case .mirror where database?.route.settings.mirror.ddl == .barrier: return refusalOfChange
        case .mirror:
            return ErrorResponse(
                .error, .insufficientPrivilege,
                "tables of database \"\(databaseName)\" are not changed while it is mirrored",
                detail: "NEW would not have the change.",
                hint: "Set mirror.ddl to barrier: it then runs on both sides. Or change both sides directly.")
        case .rule(let index):
            let rules = database?.route.table.rules.rules ?? []
            let name = index < rules.count ? rules[index].name : ""
            return ErrorResponse(
                .error, .insufficientPrivilege, "statement denied by rule \"\(name)\" of Godwit",
                hint: "SHOW RULES on Godwit's console lists the rules of database \"\(databaseName)\".")
        }
    }

    /// The gathered unit fails in its transaction on NEW, and does nothing there.
    func denyOnNew() {
        unit.notes.deny(.onNew)
        unit.notes.deniedStart = 0
        unit.session.removeSteps(from: 0)
    }

    /// A client with temporary tables may mean one of those: the mirror notices if it does not.
    private func isDeniedByMirror(_ analysis: AnalysedStatement, _ database: DatabaseState) -> Bool {
        let isFollowed = database.followsDDL || followed != nil
        if isFollowed && analysis.classification.barrier == .fits && isFollowable { return false }
        return isMirrors(analysis, database)
    }

    /// The mirror's tables would be others on one side only.
    func isMirrors(_ analysis: AnalysedStatement, _ database: DatabaseState) -> Bool {
        let isChange = analysis.classification.changesTables || analysis.classification.barrier.isNeeded
        guard isChange, !pins.contains(.temporaryTable) else { return false }
        let settings = database.route.settings.mirror
        let isDenied = switch settings.ddl {
        case .refuse: analysis.classification.changesTables
        case .barrier: true
        case .allow: false
        }
        // No other pin will do: who sends a lock and DDL at once means the mirror's tables.
        return settings.mode != .off && isDenied && !unit.session.hasEffect { $0 == .pins(.temporaryTable) }
            && !ledger.openEffects.contains(.pins(.temporaryTable))
    }

    /// The answer to a denied unit that no server needs to know of: outside of transactions, where nothing has to fail.
    var refusalOnItsOwn: ErrorResponse? {
        guard let denial = unit.notes.deniedBy, server == nil, lazy == nil, !unit.borders.begins, unit.endsWithReady,
            !unit.isStreamed
        else { return nil }
        return refusal(denial)
    }

    /// What goes to the server instead of a denied message. It fails there, and with it the transaction or batch, and
    /// changes nothing else; the name it cannot find tells us its error (see `refusal(replacing:)`).
    func standIn(forDenied frame: FrontendFrame, on server: ServerConnection) -> [UInt8] {
        let name = Self.deniedPrefix + (unit.notes.deniedBy?.word ?? "")
        var writer = MessageWriter()
        if frame.tag == FrontendTag.query {
            server.session.sent(.query)
            writer.query("SELECT \(name)")
        } else {
            server.session.sent(.describe)
            writer.message(FrontendTag.describe) {
                $0.byte(UInt8(ascii: "S"))
                $0.cString(name)
            }
        }
        return writer.bytes
    }

    private static let deniedPrefix = "godwit_denied_by_"

    /// The error that the client gets instead of a server's, where that is of a message of `standIn(forDenied:on:)`.
    func refusal(replacing error: ErrorResponse) -> ErrorResponse? {
        guard error.state == .undefinedColumn || error.state == .invalidStatementName,
            let start = error.message.firstRange(of: Self.deniedPrefix)?.upperBound,
            let denial = UnitNotes.Denial(word: error.message[start...])
        else { return nil }
        return refusal(denial)
    }

    /// A Parse or Query body's text with its tables' names replaced, or quotes about a key's name (`godwit.user` has a
    /// reserved word in it); nil: it stays as it is.
    func rewritten(_ text: UnsafeRawBufferPointer, _ database: DatabaseState) -> [UInt8]? {
        if unit.namesKeySetting, let quoted = SimpleSetting.quoted(text) { return quoted }
        guard database.route.table.rules.rewrites else { return nil }
        return database.rewritten(text, database.analyse(text).0, user: user, isCounted: false)
    }

    // MARK: keys in Bind

    /// - Parameters:
    ///   - textKey: the statement's own, which stands before the bound one.
    ///   - reader: positioned behind the statement's name.
    func noteKey(
        _ analysis: AnalysedStatement, _ textKey: StatementKey?, _ reader: BodyReader, types: ParameterTypes,
        _ database: DatabaseState
    ) {
        guard analysis.hasBoundKey else { return }
        guard let found = database.boundKey(analysis, reader, types: types) else {
            if analysis.classification.mayWrite, database.isBoundKeyHidden(analysis, reader, types: types) {
                unit.hidesColumns = true
            }
            if textKey == nil { noteKeyless(analysis) }
            return
        }
        if textKey == nil { unit.note(found) }
        if analysis.classification.mayWrite { transaction.noteWriter(found.identity) }
    }

    /// A Bind to a statement that this very unit prepares.
    func noteKey(ofParsed name: UnsafeRawBufferPointer, _ reader: BodyReader, _ database: DatabaseState) {
        guard let parsed = unit.notes.parsed.first(where: { $0.name.elementsEqual(name) }) else {
            if unit.notes.hidesKeys { unit.hidesColumns = true }
            return
        }
        parsed.types.withUnsafeBytes {
            noteKey(parsed.analysis, parsed.key, reader, types: ParameterTypes(BodyReader($0)), database)
        }
    }

    /// A Bind to a statement that was prepared before; `parseBody` is its text, a NUL and its types.
    func noteKey(
        _ analysis: AnalysedStatement, _ textKey: StatementKey?, _ reader: BodyReader, parseBody: [UInt8],
        _ database: DatabaseState
    ) {
        guard analysis.hasBoundKey else { return }
        parseBody.withUnsafeBytes { bytes in
            var types = BodyReader(bytes)
            _ = types.cString()
            noteKey(analysis, textKey, reader, types: ParameterTypes(types), database)
        }
    }

    // MARK: the end of a unit

    /// Before `unit` is reset: its shape's figures, what its transaction takes back, and whether the catalog has to be
    /// read again.
    func noteEnd(_ status: TransactionStatus, on side: Side, micros: UInt64, _ database: DatabaseState) {
        if status == .idle || unit.chains { keysSettled(isRolledBack: unit.session.wasRolledBack) }
        if unit.statementCount == 1, unit.executes {
            // The unit has it until it is over.
            withUncounted(unit.notes.statement) { noteRead($0, on: side, micros: micros, database) }
        }
        if unit.notes.changesSchema && !unit.hasFailed { hasChangedSchema = true }
        if hasChangedSchema && status == .idle {
            hasChangedSchema = false
            database.noteSchemaChange()
        }
    }

    @inline(__always)
    func noteRead(
        _ statement: AnalysedStatement, on side: Side, micros: UInt64, _ database: DatabaseState
    ) {
        if statement.kind != .read { return }
        database.shapes.record(
            statement, on: side, micros: micros, rows: unit.notes.rows, isError: unit.hasFailed, now: worker.now)
        worker.sample(
            database, side, micros: micros, isError: unit.serverError != nil, shape: statement.shape?.value ?? 0)
    }
}
