import Yams

/// Cohorts and rules: the lists of mappings of which each has forms of its own.
extension SettingsReader {
    private static let memberKeys = ["keys", "file", "pattern", "regex", "range"]
    private static let matchKeys = ["shape", "table", "schema", "regex", "user"]

    func cohorts(_ section: Section) throws(SettingsError) -> [ReadSettings.Cohort]? {
        guard let nodes = try section.list("cohorts", max: SettingsLimits.cohortsMax) else { return nil }
        var cohorts: [ReadSettings.Cohort] = []
        for node in nodes {
            let cohort = try cohort(node, section.key)
            if cohorts.contains(where: { $0.name == cohort.name }) {
                throw SettingsError(
                    path: path, line: node.mark?.line ?? section.line, key: "\(section.key).cohorts",
                    .conflict("two cohorts are named \"\(cohort.name)\""))
            }
            cohorts.append(cohort)
        }
        return cohorts
    }

    private func cohort(_ node: Node, _ parent: String) throws(SettingsError) -> ReadSettings.Cohort {
        let key = "\(parent).cohorts"
        let entry = try Section(node, path: path, key: key, keys: ["name", "percent"] + Self.memberKeys)
        var name = ""
        var hundredths = 0
        try entry.text("name", &name)
        if name.isEmpty { throw entry.error("name", .missing) }
        if entry.node("percent") == nil { throw entry.error("percent", .missing) }
        try entry.percent("percent", &hundredths)
        let given = Self.memberKeys.filter { entry.node($0) != nil }
        guard let kind = given.first else { throw entry.error("keys", .missing) }
        if given.count > 1 {
            throw entry.error(given[1], .conflict("a cohort has one of \(Self.memberKeys.joined(separator: ", "))"))
        }
        let members = try members(entry, kind, key)
        return ReadSettings.Cohort(name: name, members: members, hundredths: hundredths)
    }

    private func members(_ entry: Section, _ kind: String, _ key: String) throws(SettingsError) -> CohortMembers {
        if kind == "keys" {
            return .keys(try texts(try entry.list(kind, max: SettingsLimits.nodesMax) ?? [], "\(key).keys"))
        }
        var text = ""
        if kind == "range" { return .range(try range(entry)) }
        try entry.text(kind, &text)
        switch kind {
        case "file":
            do {
                return .file(try CohortFile.load(path: resolved(text)))
            } catch {
                throw entry.error(kind, error)
            }
        default: return .pattern(try pattern(entry, kind, text))
        }
    }

    private func pattern(_ entry: Section, _ name: String, _ text: String) throws(SettingsError) -> LinearPattern {
        if text.isEmpty { throw entry.error(name, .expected("a pattern", found: "nothing")) }
        do {
            return try name == "pattern" ? LinearPattern(glob: text) : LinearPattern(regex: text)
        } catch {
            throw entry.error(name, .expected("a pattern that can be read", found: "\"\(text)\": \(error)"))
        }
    }

    /// `{from: 1, to: 9}`
    private func range(_ entry: Section) throws(SettingsError) -> ClosedRange<Int64> {
        guard let section = try entry.section("range", keys: ["from", "to"]) else {
            throw entry.error("range", .missing)
        }
        var ends = (from: 0, to: 0)
        if section.node("from") == nil { throw section.error("from", .missing) }
        if section.node("to") == nil { throw section.error("to", .missing) }
        try section.number("from", Int.min...Int.max, &ends.from)
        try section.number("to", Int.min...Int.max, &ends.to)
        if ends.to < ends.from { throw section.error("to", .conflict("must not be below 'from' (\(ends.from))")) }
        return Int64(ends.from)...Int64(ends.to)
    }

    // MARK: rules

    func rules(_ section: Section) throws(SettingsError) -> [RuleSettings]? {
        guard let nodes = try section.list("rules", max: SettingsLimits.rulesMax) else { return nil }
        var rules: [RuleSettings] = []
        for node in nodes {
            let rule = try rule(node, "\(section.key).rules")
            if rules.contains(where: { $0.name == rule.name }) {
                throw SettingsError(
                    path: path, line: node.mark?.line ?? section.line, key: "\(section.key).rules",
                    .conflict("two rules are named \"\(rule.name)\""))
            }
            rules.append(rule)
        }
        return rules
    }

    private func rule(_ node: Node, _ key: String) throws(SettingsError) -> RuleSettings {
        let entry = try Section(node, path: path, key: key, keys: ["name", "action", "rewrite"] + Self.matchKeys)
        var name = ""
        try entry.text("name", &name)
        if name.isEmpty { throw entry.error("name", .missing) }
        var rule = RuleSettings(name: name, action: try action(entry))
        rule.shape = try text(entry, "shape")
        rule.schema = try text(entry, "schema")
        rule.user = try text(entry, "user")
        if let table = try text(entry, "table") { rule.table = try tableName(table, entry, "table") }
        if let regex = try text(entry, "regex") { rule.regex = try pattern(entry, "regex", regex) }
        if case .rewrite = rule.action { return rule }
        if !Self.matchKeys.contains(where: { entry.node($0) != nil }) {
            throw entry.error(
                "name", .expected("one of \(Self.matchKeys.joined(separator: ", ")) in the rule", found: "none"))
        }
        return rule
    }

    private func action(_ entry: Section) throws(SettingsError) -> RuleSettings.Action {
        if let rewrite = try entry.section("rewrite", keys: ["table", "to"]) {
            if entry.node("action") != nil {
                throw entry.error("action", .conflict("a rule rewrites or acts, not both"))
            }
            guard let table = try text(rewrite, "table") else { throw rewrite.error("table", .missing) }
            guard let other = try text(rewrite, "to") else { throw rewrite.error("to", .missing) }
            return .rewrite(
                table: try tableName(table, rewrite, "table"), to: try tableName(other, rewrite, "to"))
        }
        guard let action = try text(entry, "action") else { throw entry.error("action", .missing) }
        switch action {
        case "old": return .old
        case "new": return .new
        case "deny": return .deny
        default: throw entry.error("action", .expected("one of old, new, deny", found: "\"\(action)\""))
        }
    }

    private func text(_ entry: Section, _ name: String) throws(SettingsError) -> String? {
        guard entry.node(name) != nil else { return nil }
        var text = ""
        try entry.text(name, &text)
        if text.isEmpty { throw entry.error(name, .expected("text", found: "nothing")) }
        return text
    }

    private func tableName(_ text: String, _ entry: Section, _ name: String) throws(SettingsError) -> TableName {
        guard let table = TableName(text) else {
            throw entry.error(name, .expected("a table, or schema.table", found: "\"\(text)\""))
        }
        return table
    }
}
