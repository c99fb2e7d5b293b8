import SQLAnalysis

enum StatementFuzz {
    private static let plan = KeyPlan([.comment("user_id"), .column("user_id")])

    /// Tables that are made anew for every input are small.
    private static let limits = {
        var limits = AnalysisLimits()
        limits.textEntriesMax = 16
        limits.shapeEntriesMax = 16
        limits.tableBytesMax = 1 << 16
        return limits
    }()

    /// Tokens follow one another to the end, and a verdict does not depend on whether it is remembered.
    static func sql(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { raw in
            var lexer = SQLLexer(raw)
            var end = 0
            while true {
                let token = lexer.next()
                precondition(token.start >= end && token.end >= token.start && token.end <= raw.count, "a token astray")
                if token.kind == .end { break }
                precondition(token.end > token.start, "a token of nothing")
                end = token.end
            }
        }
        // What is sent ends at the first zero.
        let text = Array(bytes.prefix { $0 != 0 })
        let cache = AnalysisCache(facts: .builtIn, keyPlan: plan, limits: limits, seed: 7)
        text.withUnsafeBytes { raw in
            let first = cache.analyse(raw)
            for _ in 0..<2 {
                let again = cache.analyse(raw)
                precondition(again.kind == first.kind && again.key == first.key, "a verdict that changes")
            }
            if let key = first.key { _ = key.bytes(in: raw) }
        }
    }

    private static let types: [UInt32] = [0, 16, 20, 21, 23, 25, 26, 700, 1043, 1700, 2950, 3220]

    /// A key has one text: what was made of it is not changed once more.
    static func key(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let type = types[Int(input.byte()) % types.count]
        let value = input.remainder()
        for isBinary in [false, true] {
            let key = value.withUnsafeBytes { RoutingKeyText.parameter($0, isBinary: isBinary, type: type) }
            guard let key else { continue }
            let again = key.withUnsafeBytes { RoutingKeyText.literalKey($0, columnType: isBinary ? 25 : type) }
            precondition(again == key, "a key that changes")
        }
        // What is a key already, and said to be one of this type, stays as it is.
        if let text = RoutingKeyText.text(value) {
            text.withUnsafeBytes { raw in
                guard RoutingKeyText.isKey(raw, ofColumnType: type) else { return }
                precondition(RoutingKeyText.literalKey(raw, columnType: type) == text, "a key that is not one")
            }
        }
        if let uuid = RoutingKeyText.uuid(value) {
            precondition(uuid.count == 36 && RoutingKeyText.uuid(uuid) == uuid, "a UUID that changes")
        }
    }
}
