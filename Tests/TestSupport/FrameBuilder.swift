/// The bytes of messages as a frontend sends them, built without any code that is under test.
package struct FrameBuilder: Sendable {
    package private(set) var bytes: [UInt8] = []

    package init() {}

    package static func startup(_ parameters: [(String, String)], version: UInt32 = 196_608) -> [UInt8] {
        var body = bigEndian(version)
        for (name, value) in parameters { body += string(name) + string(value) }
        body.append(0)
        return bigEndian(UInt32(body.count + 4)) + body
    }

    /// A message with its type and length; `length` overrides the true one.
    package static func message(_ type: Character, _ body: [UInt8] = [], length: UInt32? = nil) -> [UInt8] {
        precondition(type.isASCII, "a message type is one byte")
        return [type.asciiValue ?? 0] + bigEndian(length ?? UInt32(body.count + 4)) + body
    }

    package static func query(_ sql: String) -> [UInt8] { message("Q", string(sql)) }

    package static func parse(_ sql: String, name: String = "") -> [UInt8] {
        message("P", string(name) + string(sql) + [0, 0])
    }

    /// Parameters and results in text format.
    package static func bind(
        statement: String = "", portal: String = "", parameters: [String] = []
    ) -> [UInt8] {
        var body = string(portal) + string(statement) + [0, 0] + bigEndian(UInt16(parameters.count))
        for parameter in parameters {
            body += bigEndian(UInt32(parameter.utf8.count)) + Array(parameter.utf8)
        }
        return message("B", body + [0, 0])
    }

    /// Parameters in binary format, results in text.
    package static func bind(statement: String = "", binary parameters: [[UInt8]]) -> [UInt8] {
        var body = string("") + string(statement) + [0, 1, 0, 1] + bigEndian(UInt16(parameters.count))
        for parameter in parameters { body += bigEndian(UInt32(parameter.count)) + parameter }
        return message("B", body + [0, 0])
    }

    package static func describeStatement(_ name: String = "") -> [UInt8] { message("D", [0x53] + string(name)) }
    package static func describePortal(_ name: String = "") -> [UInt8] { message("D", [0x50] + string(name)) }
    package static func closeStatement(_ name: String) -> [UInt8] { message("C", [0x53] + string(name)) }
    package static func execute(portal: String = "", rowsMax: UInt32 = 0) -> [UInt8] {
        message("E", string(portal) + bigEndian(rowsMax))
    }
    package static let sync = message("S")
    package static let flush = message("H")
    package static let terminate = message("X")

    package static func string(_ text: String) -> [UInt8] { Array(text.utf8) + [0] }

    package static func bigEndian<Integer: FixedWidthInteger>(_ value: Integer) -> [UInt8] {
        withUnsafeBytes(of: value.bigEndian) { Array($0) }
    }
}
