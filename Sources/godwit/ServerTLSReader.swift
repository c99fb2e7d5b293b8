import Foundation
import LibPQ
import Primitives
import Proxy
import Reactor
import Sessions

/// TLS towards a server, from libpq's words in its conninfo, with libpq's defaults and checks.
enum ServerTLSReader {
    private static let modes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]

    /// Reads the files that the words name.
    ///
    /// - Returns: nil where connections are never encrypted: sslmode=disable, and Unix sockets, as libpq has it.
    static func read(_ target: ConnectionString, key: String) throws -> ServerTLS? {
        func refuse(_ reason: String) -> TLSSettingsError {
            TLSSettingsError(key: key, cause: TLSContextError(reason: reason))
        }
        let isSystem = target["sslrootcert"] == "system"
        let mode = target.sslmode ?? (isSystem ? "verify-full" : "prefer")
        guard modes.contains(mode) else { throw refuse("invalid sslmode value: \"\(mode)\"") }
        if isSystem && mode != "verify-full" {
            throw refuse("weak sslmode \"\(mode)\" may not be used with sslrootcert=system (use verify-full)")
        }
        let isDirect = try choice(target.sslnegotiation, ["postgres", "direct"], "sslnegotiation", refuse) == "direct"
        let isStrong = mode == "require" || mode.hasPrefix("verify-")
        if isDirect && !isStrong {
            throw refuse("weak sslmode \"\(mode)\" may not be used with sslnegotiation=direct (use \"require\", "
                + "\"verify-ca\", or \"verify-full\")")
        }
        if target["gssencmode"] == "require" { throw refuse("gssencmode=require: Godwit has no GSSAPI") }
        let words = ["disable", "prefer", "require"]
        let binding = try choice(target["channel_binding"], words, "channel_binding", refuse) ?? "prefer"
        let isLocal = (target.hostaddr ?? target.host ?? "/").hasPrefix("/") || target.host?.hasPrefix("@") == true
        if isLocal || mode == "disable" {
            if binding == "require" { throw refuse("channel_binding=require needs TLS, which is not used here") }
            return nil
        }
        let verified = mode == "verify-full" ? target.host : nil
        if mode == "verify-full" && verified == nil {
            throw refuse("host name must be specified for a verified SSL connection")
        }
        var options = try files(target, isVerifying: mode.hasPrefix("verify-"), refuse)
        options.least = try version(target["ssl_min_protocol_version"], "ssl_min_protocol_version", refuse) ?? .v12
        options.most = try version(target["ssl_max_protocol_version"], "ssl_max_protocol_version", refuse) ?? .v13
        options.offersALPN = isDirect
        let encryption = ServerEncryption(
            mode: mode == "allow" ? .allow : mode == "prefer" ? .prefer : .require, isDirect: isDirect,
            channelBinding: binding == "disable" ? .disable : binding == "require" ? .require : .prefer,
            serverName: target["sslsni"] == "0" ? nil : target.host.flatMap { isName($0) ? $0 : nil },
            verifiedName: verified)
        do {
            return ServerTLS(encryption: encryption, context: try TLSContext(.client, options))
        } catch {
            throw TLSSettingsError(key: key, cause: error)
        }
    }

    private static func choice(
        _ value: String?, _ known: [String], _ word: String, _ refuse: (String) -> TLSSettingsError
    ) throws -> String? {
        if let value, !known.contains(value) { throw refuse("invalid \(word) value: \"\(value)\"") }
        return value
    }

    private static func version(
        _ value: String?, _ word: String, _ refuse: (String) -> TLSSettingsError
    ) throws -> TLSVersion? {
        switch value?.lowercased() {
        case nil, ""?: nil
        // Older ones are not spoken: what is asked for is at least that.
        case "tlsv1"?, "tlsv1.1"?, "tlsv1.2"?: .v12
        case "tlsv1.3"?: .v13
        case .some: throw refuse("invalid \(word) value: \"\(value ?? "")\"")
        }
    }

    /// SNI is for names, not for addresses.
    private static func isName(_ host: String) -> Bool {
        !host.contains(":") && !host.allSatisfy { $0.isNumber || $0 == "." }
    }

    /// What the conninfo names must be there; what libpq takes from ~/.postgresql is taken when it is there.
    private static func files(
        _ target: ConnectionString, isVerifying: Bool, _ refuse: (String) -> TLSSettingsError
    ) throws -> TLSOptions {
        var options = TLSOptions()
        let root = target["sslrootcert"] ?? standard("root.crt")
        if root == "system" {
            options.authorities = .system
        } else if let root {
            options.authorities = .file(root)
        } else if isVerifying {
            throw refuse("sslmode=\(target.sslmode ?? "") needs the server's authority: say where its certificate is "
                + "(sslrootcert=…), or use the system's with sslrootcert=system")
        }
        if options.authorities != nil {
            options.revocations = target["sslcrl"] ?? standard("root.crl") ?? ""
            options.revocationsDirectory = target["sslcrldir"] ?? ""
        }
        if let certificate = target["sslcert"] ?? standard("postgresql.crt") {
            guard let key = target["sslkey"] ?? standard("postgresql.key") else {
                throw refuse("certificate \(certificate) is present, but not its private key (sslkey=…)")
            }
            options.certificate = certificate
            options.key = key
            options.passphrase = target["sslpassword"]
        }
        return options
    }

    /// A file of ~/.postgresql, when it is there.
    private static func standard(_ name: String) -> String? {
        let path = NSHomeDirectory() + "/.postgresql/" + name
        return FileManager.default.fileExists(atPath: path) ? path : nil
    }
}
