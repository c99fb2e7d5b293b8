/// Looks over a file before the YAML parser does: that one recurses as deep as the text says, and copies what aliases
/// name, exponentially where keys are aliases. A rough scanner that knows quotes and comments. No state, any thread.
enum YAMLGuard {
    /// - Throws: for anchors and aliases at the beginning of a value, and for nesting beyond the limit.
    static func check(_ text: String, path: String) throws(SettingsError) {
        var scanner = Scanner(bytes: Array(text.utf8), path: path)
        try scanner.run()
    }

    private struct Scanner {
        let bytes: [UInt8]
        let path: String
        var position = 0
        var line = 1
        var flowDepth = 0
        /// Blanks and `- ? :` at the line's beginning: each may open a level.
        var blockDepth = 0
        var isLineStart = true
        /// A value may begin here.
        var isValueStart = true

        init(bytes: [UInt8], path: String) {
            self.bytes = bytes
            self.path = path
        }

        mutating func run() throws(SettingsError) {
            while position < bytes.count {
                let byte = bytes[position]
                switch byte {
                case UInt8(ascii: "\n"):
                    line += 1
                    (isLineStart, isValueStart, blockDepth) = (true, true, 0)
                case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\r"):
                    if isLineStart { blockDepth += 1 }
                case UInt8(ascii: "#") where isLineStart || isBlank(position - 1): skipLine()
                case UInt8(ascii: "-"), UInt8(ascii: "?"), UInt8(ascii: ":"):
                    if isBlank(position + 1) {
                        if isLineStart { blockDepth += 1 }
                        isValueStart = true
                    } else {
                        (isLineStart, isValueStart) = (false, false)
                    }
                case UInt8(ascii: "["), UInt8(ascii: "{"):
                    if isValueStart || flowDepth > 0 { flowDepth += 1 }
                    (isLineStart, isValueStart) = (false, true)
                case UInt8(ascii: "]"), UInt8(ascii: "}"):
                    flowDepth = max(0, flowDepth - 1)
                    (isLineStart, isValueStart) = (false, false)
                case UInt8(ascii: ",") where flowDepth > 0: isValueStart = true
                case UInt8(ascii: "\""), UInt8(ascii: "'"):
                    if isValueStart { skipQuoted(byte) }
                    (isLineStart, isValueStart) = (false, false)
                case UInt8(ascii: "*"), UInt8(ascii: "&"):
                    if isValueStart { throw SettingsError(path: path, line: line, key: "", .aliases) }
                default: (isLineStart, isValueStart) = (false, false)
                }
                // Two blanks make a level at least; a few more for what lists and keys share a line.
                if flowDepth > SettingsLimits.depthMax || blockDepth > SettingsLimits.depthMax * 8 {
                    throw SettingsError(path: path, line: line, key: "", .tooDeep(max: SettingsLimits.depthMax))
                }
                position += 1
            }
        }

        private func isBlank(_ place: Int) -> Bool {
            guard place >= 0, place < bytes.count else { return true }
            switch bytes[place] {
            case UInt8(ascii: " "), UInt8(ascii: "\t"), UInt8(ascii: "\n"), UInt8(ascii: "\r"): return true
            default: return false
            }
        }

        /// To the line's last byte.
        private mutating func skipLine() {
            while position + 1 < bytes.count, bytes[position + 1] != UInt8(ascii: "\n") { position += 1 }
        }

        /// To the closing quote.
        private mutating func skipQuoted(_ quote: UInt8) {
            position += 1
            while position < bytes.count, bytes[position] != quote {
                if bytes[position] == UInt8(ascii: "\n") { line += 1 }
                position += bytes[position] == UInt8(ascii: "\\") && quote == UInt8(ascii: "\"") ? 2 : 1
            }
        }
    }
}
