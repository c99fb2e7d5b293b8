import Console
import PGWire
import Pooling
import Primitives
import SQLAnalysis
import Sessions

/// A client's own values of the settings that servers report: how a server spells them, and who tells them when.
///
/// Who comes with values that nobody has had before waits for a server that is asked for them, once for all clients.
/// Where no server can be had it is let in nevertheless, told what is likely, and told the rest with its first server.
extension ClientConnection {
    /// Reported as it is given. It has too many values to ask for each.
    private static let listsName = "search_path"

    /// What it is told, or was: as its own servers have it, where one has logged in.
    var greeting: Greeting? { database?.greetings.best(for: poolUser) }

    func noteReported(_ parameters: [StartupPacket.Parameter], _ keySettings: [String]) {
        // Most have nothing else.
        if !settings.entries.contains(where: { $0.name != "application_name" }) { return }
        let places = greeting?.places
        func mayBeReported(_ name: String) -> Bool {
            name != "application_name" && places.map { $0[name] != nil } ?? true
        }
        guard settings.entries.contains(where: { mayBeReported($0.name) }) else { return }
        var values: [ReportedStartup.Value] = []
        for parameter in parameters {
            let name = parameter.name.lowercased()
            guard mayBeReported(name), !keySettings.contains(name) else { continue }
            values.removeAll { $0.name == name }
            values.append(ReportedStartup.Value(name: name, given: parameter.value))
        }
        reported = ReportedStartup(values)
    }

    func asksBeforeGreeting(_ state: DatabaseState) -> Bool {
        reported.map { !recall($0, state).isEmpty } ?? false
    }

    /// Takes what is known.
    ///
    /// - Returns: places of the values that only a server knows.
    private func recall(_ reported: ReportedStartup, _ database: DatabaseState) -> [Int] {
        guard let greeting else { return [] }
        var unknown: [Int] = []
        for (index, value) in reported.values.enumerated() where value.spelled == nil {
            guard let place = greeting.places[value.name] else { continue }
            if value.name == Self.listsName || value.given.hasSameBytes(as: greeting.parameters[place].value) {
                spell(index, value.given, reported)
            } else if let spelled = database.spellings.find(user: poolUser, name: value.name, given: value.given) {
                spell(index, spelled, reported)
            } else {
                unknown.append(index)
            }
        }
        return unknown
    }

    /// From now on the session is set up with the whole of it: what a part leaves open (the order of DateStyle) would
    /// be that of whoever had the server before, or of the other side.
    private func spell(_ index: Int, _ spelled: String, _ reported: ReportedStartup) {
        let value = reported.values[index]
        reported.values[index].spelled = spelled
        noteParameter(value.name, spelled)
        if spelled.hasSameBytes(as: value.given) { return }
        // Mostly no unit has run yet, and they go on sharing their memory. But behind a switch the authority may report
        // more settings than before: what the session has set by then stays.
        let isAsAtStart = settings == startupSettings
        startupSettings.respell(name: value.name, value: spelled)
        if isAsAtStart { settings = startupSettings }
    }

    // MARK: asking a server

    var awaitsSpelling: Bool { phase != .leased && reported?.asked != nil }

    var wantsQuietRow: Bool { awaitsSpelling || followed?.asksNumber == true }

    /// A part of the answer to something of ours has come.
    func take(quiet tag: UInt8, _ body: UnsafeRawBufferPointer) {
        if tag == BackendTag.commandComplete { return quietlyCompleted(body) }
        if tag != BackendTag.dataRow { return }
        followed?.take(row: body)
        guard awaitsSpelling, let reported else { return }
        var reader = BodyReader(body)
        guard reader.int16() == 1, let size = reader.int32(), let text = reader.bytes(Int(size)) else { return }
        reported.answers.append(String(wire: text))
    }

    /// - Returns: whether it has to be waited for what `server` says.
    func asksForSpelling(_ server: ServerConnection) -> Bool {
        guard let reported, let database else { return false }
        reported.asked = nil
        tellOwn(server, reported)
        let unknown = recall(reported, database)
        tellSpelled(of: reported)
        if unknown.isEmpty { return false }
        reported.asked = unknown
        reported.answers = []
        server.runQuietly(SessionSettings.spellingQuery(unknown.map {
            // Names as errors have them.
            let value = reported.values[$0]
            return StartupPacket.Parameter(name: reportedName(value.name), value: value.given)
        }))
        return true
    }

    func spelled(by server: ServerConnection, failure: ErrorResponse?) {
        guard let reported, let database, let asked = reported.asked else {
            preconditionFailure("an answer to what was not asked")
        }
        reported.asked = nil
        if let failure, phase != .greeting { return settingsApplied(on: server, failure: failure) }
        if failure == nil {
            let isWhole = reported.answers.count == asked.count
            for (number, index) in asked.enumerated() {
                spell(index, isWhole ? reported.answers[number] : reported.values[index].best, reported)
            }
            if isWhole { tellOthers(asked.map { reported.values[$0] }, of: server, database) }
        }
        reported.answers = []
        if phase != .greeting {
            tellSpelled(of: reported)
            if !leavesUnreadable(server) { prepare(server) }
            return
        }
        self.server = nil
        server.detach()
        if let failure, !failure.state.isServersOwn, failure.state != .queryCanceled {
            return close(with: fatal(failure))
        }
        greetAnyway()
    }

    private func tellOthers(
        _ values: [ReportedStartup.Value], of server: ServerConnection, _ database: DatabaseState
    ) {
        guard server.side == database.authority else { return }
        let answer = SpelledValues(
            side: server.side, user: server.entry.key.user, login: server.login.parameters,
            values: values.map { (StartupPacket.Parameter(name: $0.name, value: $0.given), $0.best) })
        database.note(answer)
        for (number, peer) in worker.peers.enumerated() where number != worker.index {
            peer.post(.spelled(database: database.name, answer))
        }
    }

    /// The server that was to be asked has gone, or others take the writes now.
    func greetAnyway() {
        if greeting == nil { waitForServer(authority) } else { greet() }
    }

    /// It has waited for as long as a login does where something can be told without a server.
    func greetingTimedOut() {
        guard phase == .greeting, greeting != nil, !isClosingAfterFlush else { return }
        if worker.gate.isSuspended { return awaitGreeting() }
        leaveHeld()
        _ = poolEntry(waitingSide)?.pool.abandon(id)
        if let server {
            self.server = nil
            reported?.asked = nil
            server.detach()
        }
        greet()
    }

    // MARK: telling the client

    /// All that the authority reports, but for the name.
    func tellAll(of reported: ReportedStartup, _ writer: inout MessageWriter) {
        for parameter in greeting?.parameters ?? [] {
            let name = parameter.name.lowercased()
            if let index = reported.values.firstIndex(where: { $0.name == name }) {
                let best = reported.values[index].best
                reported.values[index].told = best
                writer.parameterStatus(parameter.name, best)
            } else if name == "session_authorization" {
                writer.parameterStatus(parameter.name, user)
            } else if name != "application_name" {
                writer.parameterStatus(parameter.name, parameter.value)
            }
        }
    }

    /// Quotes are read as its servers read them, also where the database or the role has that otherwise.
    func noteStrings(_ parameters: [StartupPacket.Parameter]) {
        let name = "standard_conforming_strings"
        guard let found = parameters.first(where: { $0.name == name }) else { return }
        if !settings.entries.contains(where: { $0.name == name }) { noteParameter(name, found.value) }
    }

    /// Who names no encoding has the database's, as PostgreSQL has it: its texts are in that, and may be none of UTF-8,
    /// by which our servers log in. From then on it is as if the startup packet had named it, on either side.
    func noteEncoding(_ parameters: [StartupPacket.Parameter]) {
        let name = "client_encoding"
        guard let own = parameters.first(where: { $0.name == "server_encoding" })?.value, own != "UTF8",
            !settings.entries.contains(where: { $0.name == name })
        else { return }
        // No unit has run yet.
        startupSettings.set(name: name, value: own)
        settings = startupSettings
        noteParameter(name, own)
        if reported == nil { reported = ReportedStartup([]) }
        reported?.values.append(ReportedStartup.Value(name: name, given: own, spelled: own))
    }

    /// It is greeted with what another user's server has reported.
    func noteOthers(_ greeting: Greeting) {
        if reported == nil { reported = ReportedStartup([]) }
        reported?.others = greeting.parameters
    }

    /// What its own server has reported otherwise.
    private func tellOwn(_ server: ServerConnection, _ reported: ReportedStartup) {
        guard let others = reported.others, server.side == authority else { return }
        reported.others = nil
        noteStrings(server.login.parameters)
        var writer = MessageWriter()
        for parameter in server.login.parameters where !others.contains(parameter) {
            let name = parameter.name.lowercased()
            if name == "application_name" || name == "session_authorization" { continue }
            if reported.values.contains(where: { $0.name == name }) { continue }
            writer.parameterStatus(parameter.name, parameter.value)
        }
        if !writer.bytes.isEmpty { send(writer.bytes) }
    }

    /// What it was told without a server, and a server spells otherwise.
    private func tellSpelled(of reported: ReportedStartup) {
        var writer = MessageWriter()
        for (index, value) in reported.values.enumerated() {
            guard let spelled = value.spelled, let told = value.told, !spelled.hasSameBytes(as: told) else { continue }
            reported.values[index].told = spelled
            writer.parameterStatus(reportedName(value.name), spelled)
        }
        if !writer.bytes.isEmpty { send(writer.bytes) }
    }

    private func reportedName(_ name: String) -> String {
        greeting.flatMap { known in known.places[name].map { known.parameters[$0].name } } ?? name
    }

    /// RESET goes back to what the startup packet has; the server, of which another client may have had the same, goes
    /// back to its own default, and reports that or nothing.
    func noteUntold(_ effects: [SessionEffect]) {
        guard let reported else { return }
        noteResets(effects, in: &reported.untold)
    }

    /// - Returns: messages for the client, before it is told that the server is ready.
    func takeUntold() -> [UInt8]? {
        guard let reported, !reported.untold.isEmpty, let server,
            server.session.isQuiet || startupRestores > 0
        else { return nil }
        let names = reported.untold
        reported.untold = []
        var writer = MessageWriter()
        for value in reported.values where value.told != nil && names.contains(value.name) {
            // The server has just said its own default, and is made to have this when nobody listens.
            noteParameter(value.name, value.best)
            writer.parameterStatus(reportedName(value.name), value.best)
        }
        return writer.bytes.isEmpty ? nil : writer.bytes
    }
}
