import Foundation

/// What is said of events and breakers.
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

    static let breakerKeys = [
        "failures", "held", "probes", "memory", "window", "window_calls", "error_points", "p95_factor",
        "p95_slack_millis", "mismatch_percent", "lag", "read_timeout_millis", "read_timeout_p99_factor", "patience",
        "rollback", "safe_after",
    ]

    func read(_ section: Section, _ breaker: inout BreakerSettings) throws(SettingsError) {
        try section.number("failures", 1...1000, &breaker.failures)
        try section.seconds("held", least: 0.001, &breaker.heldSeconds)
        try section.number("probes", 1...1000, &breaker.probes)
        try section.seconds("memory", &breaker.memorySeconds)
        try section.seconds("window", least: 0.1, &breaker.windowSeconds)
        try section.number("window_calls", 1...1_000_000, &breaker.windowCalls)
        try section.percent("error_points", &breaker.errorPointsHundredths)
        try section.factor("p95_factor", 1...1000, &breaker.p95Factor)
        try section.number("p95_slack_millis", 0...60_000, &breaker.p95SlackMillis)
        try section.percent("mismatch_percent", &breaker.mismatchHundredths)
        try section.seconds("lag", &breaker.lagSeconds)
        try section.number("read_timeout_millis", 0...3_600_000, &breaker.readTimeoutMillis)
        try section.factor("read_timeout_p99_factor", 1...1000, &breaker.readTimeoutFactor)
        try section.seconds("patience", &breaker.patienceSeconds)
        // A bare off is a boolean to YAML 1.1, and printed as false by some tools.
        try section.choice("rollback", &breaker.rollback, aliases: ["false": .off, "Off": .off, "OFF": .off])
        try section.seconds("safe_after", &breaker.safeAfterSeconds)
    }
}
