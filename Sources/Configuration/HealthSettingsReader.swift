import Foundation

/// What is said of events.
extension SettingsReader {
    static let eventKeys = ["hooks", "hook_timeout"]

    func read(_ section: Section, _ events: inout EventSettings) throws(SettingsError) {
        if let hooks = try section.list("hooks", max: SettingsLimits.hooksMax) {
            events.hooks = try texts(hooks, "events.hooks").map(resolved)
            for path in events.hooks where !FileManager.default.isExecutableFile(atPath: path) {
                throw section.error("hooks", .expected("programs that may be run", found: "\"\(path)\""))
            }
        }
        try section.seconds("hook_timeout", least: 0.001, &events.hookTimeoutSeconds)
    }
}
