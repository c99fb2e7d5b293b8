import Yams

/// A value that takes the place of the file's, for one setting. Immutable, any thread.
package struct SettingOverride: Sendable, Equatable, Codable {
    /// As `SettingName.path` gives it.
    package var path: [String]
    /// A list or mapping as in the file (`[a, b]`), or the plain text of anything else.
    package var value: String

    package init(path: [String], value: String) {
        self.path = path
        self.value = value
    }

    package var key: String { path.joined(separator: ".") }

    /// Puts the value into the tree.
    func apply(to root: inout Node, file: String) throws(SettingsError) {
        root = try set(path[...], in: root, section: "", file)
    }

    private func set(
        _ rest: ArraySlice<String>, in node: Node, section: String, _ file: String
    ) throws(SettingsError) -> Node {
        guard let name = rest.first else { return try leaf(file) }
        var mapping = Node.Mapping([])
        if case .mapping(let known) = node { mapping = known }
        // The file may say it under another of its names.
        for (alias, canonical) in SettingsReader.aliases[section] ?? [:] where canonical == name {
            mapping[Node(alias)] = nil
        }
        let isEntry = section == "databases" || section == "users"
        let below = Section.join(section, isEntry ? "*" : name)
        var child = Node.mapping(Node.Mapping([]))
        if let known = mapping[Node(name)] { child = known }
        mapping[Node(name)] = try set(rest.dropFirst(), in: child, section: below, file)
        return .mapping(mapping)
    }

    private func leaf(_ file: String) throws(SettingsError) -> Node {
        guard value.hasPrefix("[") || value.hasPrefix("{") else {
            // Without quotes, so that numbers are numbers; nothing is the empty text.
            return .scalar(Node.Scalar(value, Tag(.implicit), value.isEmpty ? .doubleQuoted : .any))
        }
        try YAMLGuard.check(value, path: file)
        do {
            if let node = try Yams.compose(yaml: value) { return node }
        } catch {
            throw SettingsError(path: file, line: 0, key: key, .syntax("\(value)"))
        }
        throw SettingsError(path: file, line: 0, key: key, .missing)
    }
}
