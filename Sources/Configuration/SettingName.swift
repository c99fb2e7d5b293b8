/// What settings are called: in full as in the file, alone where that is clear, or as PgBouncer calls them.
/// No state, any thread.
package enum SettingName {
    /// PgBouncer's names of settings that have another place or name here.
    package static let pgBouncer: [String: String] = [
        "admin_users": "admin.users", "auth_file": "auth.users_file", "auth_hba_file": "auth.hba_file",
        "auth_ident_file": "auth.ident_file", "auth_type": "auth.method", "client_tls_ca_file": "listen.tls.client_ca",
        "client_tls_cert_file": "listen.tls.certificate", "client_tls_ciphers": "listen.tls.ciphers",
        "client_tls13_ciphers": "listen.tls.cipher_suites",
        "client_tls_key_file": "listen.tls.key", "client_tls_sslmode": "listen.tls.mode",
        "default_pool_size": "pool.size", "listen_addr": "listen.address", "listen_port": "listen.port",
        "max_client_conn": "listen.clients_max", "unix_socket_dir": "listen.unix_socket_directory",
    ]

    /// Sections in which a name that stands alone is looked for.
    private static let sections = ["listen", "listen.tls", "auth", "admin", "log", "pool"]

    /// As PgBouncer's SHOW CONFIG calls it; nil: PgBouncer has nothing like it.
    package static func inPgBouncer(_ key: String) -> String? {
        if let name = pgBouncer.first(where: { $0.value == key })?.key { return name }
        let known = ["pool.", "auth.auth_", "listen.tcp_", "listen.listen_", "listen.client_", "listen.max_"]
        if known.contains(where: { key.hasPrefix($0) }) || key == "admin.stats_users" {
            return key.split(separator: ".").last.map(String.init)
        }
        return nil
    }

    /// The keys on the way to a setting in the file; nil: there is none of this name, or more than one.
    ///
    /// - Parameter databases: their names, which may hold dots.
    package static func path(of name: String, databases: [String]) -> [String]? {
        let key = pgBouncer[name] ?? name
        for (section, entries) in [("databases", databases), ("users", [])] where key.hasPrefix("\(section).") {
            return path(of: key.dropFirst(section.count + 1), section: section, entries: entries)
        }
        if let path = known(parts(key[...])) { return path }
        let places = sections.compactMap { known(parts($0[...]) + [key]) }
        return places.count == 1 ? places[0] : nil
    }

    private static func parts(_ key: Substring) -> [String] {
        key.split(separator: ".", omittingEmptySubsequences: false).map(String.init)
    }

    private static func path(of rest: Substring, section: String, entries: [String]) -> [String]? {
        let longest = entries.filter { rest.hasPrefix("\($0).") }.max { $0.utf8.count < $1.utf8.count }
        let entry: Substring
        if let longest {
            entry = rest.prefix(longest.count)
        } else {
            // A user's settings are all right below the name.
            guard section == "users", let dot = rest.lastIndex(of: ".") else { return nil }
            entry = rest[..<dot]
        }
        let below = parts(rest.dropFirst(entry.count + 1))
        guard let path = known([section, "*"] + below) else { return nil }
        return [section, String(entry)] + path.dropFirst(2)
    }

    /// The path with the last name as the reader knows it; nil: the reader does not know it.
    private static func known(_ path: [String]) -> [String]? {
        guard let last = path.last, path.count > 1 else { return nil }
        let section = path.dropLast().joined(separator: ".")
        let name = SettingsReader.aliases[section]?[last] ?? last
        guard SettingsReader.keys[section]?.contains(name) == true, SettingsReader.keys["\(section).\(name)"] == nil
        else { return nil }
        return path.dropLast() + [name]
    }
}
