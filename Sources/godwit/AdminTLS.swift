import Configuration
import ControlPlane
import Reactor

/// What `admin.http.tls` makes of HTTP.
enum AdminTLS {
    static let key = "admin.http.tls"

    /// Reads the files again, at the start and at each reload.
    ///
    /// - Parameter address: where it listens; nil: nobody does yet, or there is no HTTP.
    /// - Returns: nil: what comes is not encrypted.
    /// - Throws: `TLSSettingsError` with the file that is wrong, or tokens that would pass for all to read.
    static func read(_ settings: HTTPSettings, at address: SocketAddress?) throws -> TLSContext? {
        try checkTokens(settings, at: address)
        if !settings.tls.isOn { return nil }
        var options = TLSOptions()
        options.isHTTP = true
        options.certificate = settings.tls.certificate
        options.key = settings.tls.key
        options.least = settings.tls.minVersion == .v12 ? .v12 : .v13
        do { return try TLSContext(.server, options) } catch { throw TLSSettingsError(key: key, cause: error) }
    }

    /// - Throws: tokens would pass for all to read.
    static func checkTokens(_ settings: HTTPSettings, at address: SocketAddress?) throws(AdminService.Refusal) {
        guard let address, let problem = settings.plainTokenProblem(at: "\(address)", isLoopback: address.isLoopback)
        else { return }
        throw AdminService.Refusal(description: "admin.http: \(problem)")
    }
}
