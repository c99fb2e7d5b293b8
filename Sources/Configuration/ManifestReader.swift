import Foundation
import Yams

/// Reads a migration's manifest (YAML, and so JSON), strictly: what it does not know it refuses. Lives within one call.
package struct ManifestReader {
    /// Every key by its section; `phases.*` stands for each phase.
    static let keys: [String: [String]] = [
        "": [
            "id", "database", "strategy", "scope", "phases", "reads", "gates", "abort", "verify", "cutover",
            "invariants", "hooks", "windows",
        ],
        "scope": ["tables", "mapping"],
        "phases": MigrationPhase.allCases.map(\.rawValue),
        "phases.*": ["advance", "soak", "approvals"],
        "reads": ["steps"],
        "reads.steps.*": ["cohort", "percent"],
        "gates": [
            "lag", "verify_age", "free_connections", "transaction_age", "error_points", "latency_factor",
            "shadow_reads", "shadow_mismatch_percent",
        ],
        "abort": [
            "error_points", "error_percent", "latency_factor", "mismatch_percent", "lag_warn", "lag",
            "validation_errors", "held",
        ],
        "verify": ["every", "rate"],
        "cutover": ["deadline_millis", "pinned"],
        "invariants.*": ["name", "sql", "tolerance"],
        "windows": ["time_zone", "allow"],
        "windows.allow.*": ["days", "hours"],
    ]

    private static let days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

    private let path: String
    private let top: Section

    /// - Parameter path: for errors.
    package static func load(path: String) throws(SettingsError) -> (MigrationManifest, text: String) {
        let text = try BoundedFile.text(path, bytesMax: ManifestLimits.bytesMax)
        return (try parse(text, path: path), text)
    }

    package static func parse(_ text: String, path: String = "manifest") throws(SettingsError) -> MigrationManifest {
        if text.utf8.count > ManifestLimits.bytesMax {
            throw SettingsError(path: path, line: 0, key: "", .tooLarge(text.utf8.count, max: ManifestLimits.bytesMax))
        }
        guard let root = try SettingsFile.tree(text, path: path) else {
            throw SettingsError(path: path, line: 1, key: "id", .missing)
        }
        return try ManifestReader(path: path, top: Section(root, path: path, key: "", keys: keys[""])).read()
    }

    private func read() throws(SettingsError) -> MigrationManifest {
        var id = "", database = ""
        try top.text("id", &id)
        try top.text("database", &database)
        for (name, value) in [("id", id), ("database", database)] where value.isEmpty {
            throw top.error(name, .missing)
        }
        let isPlain = id.utf8.allSatisfy { byte in
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."): true
            default: false
            }
        }
        guard isPlain, id.utf8.count <= ManifestLimits.idBytesMax, id.first != "." else {
            let what = "letters, digits, '-', '_' and '.', at most \(ManifestLimits.idBytesMax)"
            throw top.error("id", .expected(what, found: "\"\(id.prefix(80))\""))
        }
        var manifest = MigrationManifest(id: id, database: database)
        try top.choice("strategy", &manifest.strategy)
        try readScope(&manifest)
        try readPhases(&manifest)
        try readSteps(&manifest)
        try readLimits(&manifest)
        try readInvariants(&manifest)
        manifest.hooks = try texts(top, "hooks", max: ManifestLimits.hooksMax)
        try readWindows(&manifest)
        return manifest
    }

    private func readScope(_ manifest: inout MigrationManifest) throws(SettingsError) {
        guard let scope = try top.section("scope", keys: Self.keys["scope"]) else { return }
        manifest.tables = try texts(scope, "tables", max: ManifestLimits.tablesMax)
        for table in manifest.tables where !table.contains(".") {
            throw scope.error("tables", .expected("schema.table", found: "\"\(table)\""))
        }
        manifest.mapping = try MappingReader(path: path).tables(scope, "mapping")
        if !manifest.tables.isEmpty, manifest.strategy == .full {
            throw scope.error("tables", .conflict(
                "a part of the tables can only be read on NEW: leave it out, or say strategy: reads"))
        }
    }

    private func readPhases(_ manifest: inout MigrationManifest) throws(SettingsError) {
        guard let phases = try top.section("phases", keys: Self.keys["phases"]) else { return }
        for phase in MigrationPhase.allCases {
            guard let section = try phases.section(phase.rawValue, keys: Self.keys["phases.*"]) else { continue }
            var wanted = manifest[phase]
            try section.choice("advance", &wanted.advance)
            try section.seconds("soak", &wanted.soakSeconds)
            try section.number("approvals", 0...ManifestLimits.approvalsMax, &wanted.approvals)
            manifest.phases[phase] = wanted
        }
    }

    private func readSteps(_ manifest: inout MigrationManifest) throws(SettingsError) {
        guard let reads = try top.section("reads", keys: Self.keys["reads"]),
            let nodes = try reads.list("steps", max: ManifestLimits.stepsMax)
        else { return }
        if nodes.isEmpty { throw reads.error("steps", .expected("one step at least", found: "none")) }
        var steps: [MigrationManifest.ReadStep] = []
        for node in nodes {
            if case .mapping = node {
                let section = try Section(node, path: path, key: "reads.steps", keys: Self.keys["reads.steps.*"])
                var step = MigrationManifest.ReadStep(hundredths: 10_000)
                var cohort = ""
                try section.text("cohort", &cohort)
                if cohort.isEmpty { throw section.error("cohort", .missing) }
                step.cohort = cohort
                try section.percent("percent", &step.hundredths)
                steps.append(step)
            } else {
                let text = try Section.text(node, path: path, key: "reads.steps")
                guard let hundredths = Percent.hundredths(text), hundredths > 0 else {
                    let what = "a percentage up to 100 in steps of 0.01, or {cohort: name, percent: number}"
                    throw reads.error("steps", .expected(what, found: Section.name(node)))
                }
                steps.append(.init(hundredths: hundredths))
            }
        }
        let shares = steps.filter { $0.cohort == nil }.map(\.hundredths)
        if zip(shares, shares.dropFirst()).contains(where: { $0 >= $1 }) {
            throw reads.error("steps", .conflict("each share must be greater than the one before"))
        }
        if manifest.strategy == .full, shares.last != 10_000 {
            throw reads.error("steps", .conflict("the last one must be 100: behind it the writes move"))
        }
        manifest.steps = steps
    }

    private func readLimits(_ manifest: inout MigrationManifest) throws(SettingsError) {
        if let gates = try top.section("gates", keys: Self.keys["gates"]) {
            try gates.seconds("lag", &manifest.gates.lagSeconds)
            try gates.seconds("verify_age", least: 1, &manifest.gates.verifyAgeSeconds)
            try gates.number("free_connections", 0...100_000, &manifest.gates.freeConnections)
            try gates.seconds("transaction_age", &manifest.gates.transactionSeconds)
            try gates.factor("error_points", 0...100, &manifest.gates.errorPoints)
            try gates.factor("latency_factor", 1...1000, &manifest.gates.latencyFactor)
            try gates.number("shadow_reads", 0...1_000_000_000, &manifest.gates.shadowReads)
            try gates.factor("shadow_mismatch_percent", 0...100, &manifest.gates.shadowMismatchPercent)
        }
        if let abort = try top.section("abort", keys: Self.keys["abort"]) {
            try abort.factor("error_points", 0...100, &manifest.abort.errorPoints)
            try abort.factor("error_percent", 0...100, &manifest.abort.errorPercent)
            try abort.factor("latency_factor", 1...1000, &manifest.abort.latencyFactor)
            try abort.factor("mismatch_percent", 0...100, &manifest.abort.mismatchPercent)
            try abort.seconds("lag_warn", &manifest.abort.lagWarnSeconds)
            try abort.seconds("lag", &manifest.abort.lagSeconds)
            try abort.number("validation_errors", 0...1_000_000_000, &manifest.abort.validationErrors)
            try abort.seconds("held", &manifest.abort.heldSeconds)
        }
        if let verify = try top.section("verify", keys: Self.keys["verify"]) {
            try verify.seconds("every", &manifest.verifyEverySeconds)
            try verify.number("rate", 0...1_000_000_000, &manifest.verifyRate)
        }
        if let cutover = try top.section("cutover", keys: Self.keys["cutover"]) {
            try cutover.number("deadline_millis", 10...60_000, &manifest.deadlineMillis)
            try cutover.choice("pinned", &manifest.pinned)
        }
    }

    private func readInvariants(_ manifest: inout MigrationManifest) throws(SettingsError) {
        guard let nodes = try top.list("invariants", max: ManifestLimits.invariantsMax) else { return }
        var names: Set<String> = []
        for node in nodes {
            let section = try Section(node, path: path, key: "invariants", keys: Self.keys["invariants.*"])
            var invariant = MigrationManifest.Invariant(name: "", sql: "")
            try section.text("name", &invariant.name)
            try section.text("sql", &invariant.sql)
            try section.factor("tolerance", 0...1e15, &invariant.tolerance)
            for (key, value) in [("name", invariant.name), ("sql", invariant.sql)] where value.isEmpty {
                throw section.error(key, .missing)
            }
            if invariant.sql.utf8.count > ManifestLimits.sqlBytesMax {
                let found = "\(invariant.sql.utf8.count)"
                throw section.error("sql", .expected("at most \(ManifestLimits.sqlBytesMax) bytes", found: found))
            }
            if !names.insert(invariant.name).inserted { throw section.error("name", .duplicateKey) }
            manifest.invariants.append(invariant)
        }
    }

    private func readWindows(_ manifest: inout MigrationManifest) throws(SettingsError) {
        guard let windows = try top.section("windows", keys: Self.keys["windows"]) else { return }
        try windows.text("time_zone", &manifest.timeZone)
        if TimeZone(identifier: manifest.timeZone) == nil {
            throw windows.error("time_zone", .expected(
                "a name like Europe/Berlin", found: "\"\(manifest.timeZone.prefix(60))\""))
        }
        for node in try windows.list("allow", max: ManifestLimits.windowsMax) ?? [] {
            let section = try Section(node, path: path, key: "windows.allow", keys: Self.keys["windows.allow.*"])
            var days = Set(1...7)
            let words = try texts(section, "days", max: 7)
            if !words.isEmpty {
                days = []
                for word in words {
                    guard let day = Self.days.firstIndex(of: word.lowercased()) else {
                        let what = "days of \(Self.days.joined(separator: ", "))"
                        throw section.error("days", .expected(what, found: "\"\(word.prefix(20))\""))
                    }
                    days.insert(day + 1)
                }
            }
            var hours = "00:00-24:00"
            try section.text("hours", &hours)
            guard let (from, to) = Self.minutes(hours) else {
                throw section.error("hours", .expected("hours like 08:00-17:30", found: "\"\(hours.prefix(40))\""))
            }
            manifest.windows.append(.init(days: days, fromMinute: from, toMinute: to))
        }
    }

    private static func minutes(_ hours: String) -> (Int, Int)? {
        let parts = hours.split(separator: "-", omittingEmptySubsequences: false).map { part -> Int? in
            let numbers = part.split(separator: ":", omittingEmptySubsequences: false)
            guard numbers.count == 2, numbers.allSatisfy({ $0.count == 2 && $0.utf8.allSatisfy { $0 &- 0x30 < 10 } }),
                let hour = Int(numbers[0]), let minute = Int(numbers[1]), minute < 60, hour * 60 + minute <= 24 * 60
            else { return nil }
            return hour * 60 + minute
        }
        guard parts.count == 2, let from = parts[0], let to = parts[1], from != to else { return nil }
        return (from, to)
    }

    private func texts(_ section: Section, _ name: String, max: Int) throws(SettingsError) -> [String] {
        var all: [String] = []
        for node in try section.list(name, max: max) ?? [] {
            all.append(try Section.text(node, path: path, key: Section.join(section.key, name)))
        }
        return all
    }
}
