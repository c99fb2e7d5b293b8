/// Finds what a text sets standard_conforming_strings to, token by token: where it is off, a backslash escapes in plain
/// quotes as it does in E'…'. A value.
struct StringsSetting {
    static let name = "standard_conforming_strings"

    /// nil: the text does not say.
    private(set) var isOn: Bool?
    /// It is again what the session began with, until the text says something else.
    private(set) var isReset = false
    private var isNamed = false
    /// The word before, where it may count.
    private var last = ""
    /// The name with quotes and without, and the words of what resets it.
    private static let lengths: Set<Int> = [
        name.utf8.count, name.utf8.count + 2, "all".utf8.count, "reset".utf8.count, "discard".utf8.count,
    ]

    mutating func pass(_ piece: [UInt8]) {
        let before = last
        last = ""
        if !isNamed && !Self.lengths.contains(piece.count) { return }
        let word = String(decoding: piece, as: UTF8.self).lowercased().filter { $0 != "'" && $0 != "\"" }
        last = word
        if !isNamed {
            let isReset = before == "reset" && (word == Self.name || word == "all")
            if isReset || before == "discard" && word == "all" { (isOn, self.isReset) = (nil, true) }
            isNamed = word == Self.name && !isReset
            return
        }
        switch word {
        // SET has the one, set_config the other.
        case "=", "to", ",": return
        case "off", "false", "f", "no", "n", "0": (isOn, isReset) = (false, false)
        case "on", "true", "t", "yes", "y", "1": (isOn, isReset) = (true, false)
        case "default": (isOn, isReset) = (nil, true)
        default: break
        }
        isNamed = false
    }
}
