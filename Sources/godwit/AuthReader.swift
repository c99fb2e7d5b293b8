import Configuration
import LibPQ
import Primitives
import Proxy
import Sessions

/// Reads what decides who may log in: the users', HBA and ident files, and where else users are looked up. No state.
enum AuthReader {
    /// - Parameter previous: the one that it takes the place of, whose made-up secrets go on.
    static func policy(_ settings: Settings, previous: AuthPolicy?) throws -> AuthPolicy {
        let method: AuthPolicy.Method =
            switch settings.auth.method {
            case .trust: .trust
            case .md5: .md5
            case .password: .password
            // With an HBA file its rules decide.
            case .scramSHA256, .hba: .scramSHA256
            case .cert: .cert
            }
        let list = settings.auth.usersFile.isEmpty
            ? UserList(secrets: [:]) : try UserList.load(path: settings.auth.usersFile)
        let file = settings.auth.identFile
        let maps = file.isEmpty ? IdentFile.empty : try IdentFile.load(path: file)
        if !settings.auth.identMap.isEmpty && !maps.has(map: settings.auth.identMap) {
            throw SettingsError(
                path: file, line: 0, key: "",
                .conflict("has no line of the map \"\(settings.auth.identMap)\" (auth.ident_map)"))
        }
        var rules: HBAFile?
        if settings.auth.method == .hba {
            let loaded = try HBAFile.load(path: settings.auth.hbaFile, local: .ofThisMachine())
            for (name, line) in loaded.maps where !maps.has(map: name) {
                throw SettingsError(
                    path: loaded.path, line: line, key: "",
                    .conflict("the map \"\(name)\" is not in auth.ident_file (\(file.isEmpty ? "none" : file))"))
            }
            rules = loaded
        }
        let looksUp = !settings.auth.lookUp.user.isEmpty || settings.databases.contains { !$0.lookUp.user.isEmpty }
        return AuthPolicy(
            method: method, secrets: list.secrets.mapValues { AuthPolicy.Secret(parsing: $0) }, rules: rules,
            maps: maps, certificateMap: settings.auth.identMap.isEmpty ? nil : settings.auth.identMap,
            looksUp: looksUp, previous: previous)
    }

    /// How to find the users of a database that the users' file does not have: as auth_user, on the authority.
    static func lookUp(
        _ settings: DatabaseSettings, _ general: AuthSettings, _ auth: AuthPolicy, authority: Side
    ) throws -> SecretLookUp? {
        let wanted = settings.lookUp.filled(from: general.lookUp)
        if wanted.user.isEmpty { return nil }
        let old = try ConnectionString(parsing: authority == .new ? settings.new : settings.old)
        let database = wanted.database.isEmpty ? old.dbname ?? settings.name : wanted.database
        let isSame = old.user.map { $0.hasSameBytes(as: wanted.user) } ?? false
        let password = isSame ? old.password : auth.plainPassword(of: wanted.user)
        // The conninfo's options are for the application's sessions.
        // What `*` makes of a name is put in when it is known.
        let isOpen = database == DatabaseSettings.wildcard
        let target = old.overriding([
            "user": wanted.user, "password": password ?? "", "dbname": isOpen ? "" : database, "options": "",
        ])
        return SecretLookUp(conninfo: target.text, database: database, query: wanted.query)
    }
}
