import Configuration
import Console
import Primitives

/// What an operator has ordered, as events and the log have it: the command as it could be typed, without secrets.
extension ControlRequest {
    var words: String {
        switch self {
        case .reload: "RELOAD"
        case .reads(let database, let hundredths): "READS \(database) \(ConsoleTables.percent(hundredths))"
        case .shadow(let database, let hundredths): "SHADOW \(database) \(ConsoleTables.percent(hundredths))"
        case .mirror(let database, .pause): "MIRROR PAUSE \(database)"
        case .mirror(let database, .resume): "MIRROR RESUME \(database)"
        case .mirror(let database, .throttle(let rows)): "MIRROR THROTTLE \(database) \(rows)"
        case .set(let key, let value): "SET \(key) = \(ReloadPolicy.maskedConninfo(value))"
        case .force(let database, let order): "FORCE \(database) \(order.rawValue.uppercased())"
        case .gate(let command): command.words
        case .switchOver(let command): command.words
        case .capture(let database, .stop): "CAPTURE \(database) STOP"
        case .capture(let database, .start(let start)):
            "CAPTURE \(database) TO \(start.file)\(start.withDigest ? " DIGEST" : "")"
                + (start.isRedacted ? " REDACT" : "")
        }
    }

    /// Empty: it is about all of them, or none.
    var database: String {
        switch self {
        case .reload, .set: ""
        case .reads(let database, _), .shadow(let database, _), .mirror(let database, _), .force(let database, _),
            .capture(let database, _):
            database
        case .gate(let command): command.database
        case .switchOver(let command): command.database
        }
    }

    var eventKind: EventRecord.Kind {
        if case .gate(.shutdown) = self { .shutdown } else { .order }
    }
}

extension GateCommand {
    package var words: String {
        var words = [tag]
        switch self {
        case .pause(let pause):
            words += [pause.scope.name]
            if pause.hold == .writes { words.append("WRITES") }
            if pause.isKept { words.append("KEEP") }
            if let limit = pause.limit { words.append("\(limit)") }
            if let lifetime = pause.lifetime { words.append("FOR \(lifetime)") }
        case .resume(let scope), .reconnect(let scope), .kill(let scope): words.append(scope.name)
        case .waitClose(let scope, let limit): words += [scope.name] + (limit.map { ["\($0)"] } ?? [])
        case .suspend(let limit): words += limit.map { ["\($0)"] } ?? []
        case .disable(let name), .enable(let name): words.append(name)
        case .shutdown(.waitForClients): words.append("WAIT_FOR_CLIENTS")
        case .shutdown(.waitForServers): words.append("WAIT_FOR_SERVERS")
        case .holdForSwitch(let name, _, _), .holdForChange(let name, _, _), .letGo(let name), .warm(let name, _):
            words.append(name.text)
        case .shutdown(.now), .barrier: break
        }
        return words.filter { !$0.isEmpty }.joined(separator: " ")
    }

    package var database: String {
        switch self {
        case .pause(let pause): pause.scope.name
        case .resume(let scope), .reconnect(let scope), .kill(let scope), .waitClose(let scope, _): scope.name
        case .disable(let name), .enable(let name): name
        case .holdForSwitch(let name, _, _), .holdForChange(let name, _, _), .letGo(let name), .warm(let name, _):
            name.text
        case .suspend, .shutdown, .barrier: ""
        }
    }
}

extension SwitchCommand {
    fileprivate var words: String {
        var words = [toNew ? "CUTOVER" : "ROLLBACK", database]
        if isDryRun { words.append("DRY RUN") }
        if let deadlineMillis { words.append("DEADLINE \(deadlineMillis)") }
        if waivesVerify { words.append("WITHOUT VERIFY") }
        if endsPinned { words.append("END PINNED") }
        return words.joined(separator: " ")
    }
}

extension GateScope {
    /// Empty: all databases.
    fileprivate var name: String {
        if case .database(let name) = self { name.text } else { "" }
    }
}
