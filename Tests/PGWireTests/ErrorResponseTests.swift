import PGWire
import Primitives
import Testing

@Suite struct ErrorResponseTests {
    private func parse(_ body: [UInt8]) -> ErrorResponse {
        body.withUnsafeBytes { ErrorResponse.parse(body: $0) }
    }

    private static func fields(_ pairs: [(String, String)]) -> [UInt8] {
        pairs.flatMap { Array(($0 + $1).utf8) + [0] } + [0]
    }

    @Test func `an error is written with severity, state and message in PostgreSQL's order`() {
        let error = ErrorResponse(.fatal, .invalidPassword, "no", detail: "d", hint: "h")
        let body = Self.fields([
            ("S", "FATAL"), ("V", "FATAL"), ("C", "28P01"), ("M", "no"), ("D", "d"), ("H", "h"),
        ])
        #expect(error.encoded == [0x45, 0, 0, 0, UInt8(body.count + 4)] + body)
        #expect(parse(body) == error)
    }

    @Test func `a notice has a type of its own`() {
        #expect(ErrorResponse(.notice, SQLState("00000"), "x").encoded.first == UInt8(ascii: "N"))
    }

    @Test func `an error without SQLSTATE is XX000`() {
        let error = parse(Self.fields([("S", "ERROR"), ("M", "boom")]))
        #expect(error == ErrorResponse(.error, SQLState("XX000"), "boom"))
        #expect(!error.state.isServersOwn)
    }

    @Test(arguments: ["", "57P0", "57P011", "0"])
    func `a SQLSTATE that has not five characters is XX000`(code: String) {
        #expect(parse(Self.fields([("C", code), ("M", "m")])).state == SQLState("XX000"))
    }

    @Test(arguments: [
        [("S", "FATAL")], [("V", "FATAL")], [("S", "ВАЖНО"), ("V", "FATAL")], [("S", "PANIC")],
        [("S", "PANIK"), ("V", "PANIC")],
    ])
    func `what ends the connection is fatal in every language of the server`(pairs: [(String, String)]) {
        #expect(parse(Self.fields(pairs)).severity == .fatal)
    }

    @Test func `every truncated body is read as far as it goes`() {
        let body = Self.fields([("S", "FATAL"), ("C", "57P01"), ("M", "bye"), ("D", "d"), ("H", "h")])
        for count in 0..<body.count {
            let error = parse(Array(body[..<count]))
            #expect(["", "bye"].contains(error.message))
            #expect(error.message.isEmpty || error.state == .adminShutdown)
            #expect(error.hint == nil || count == body.count - 1)
        }
    }

    @Test func `a body of nothing, of zeros, and of unknown fields is an empty error`() {
        let empty = ErrorResponse(.error, SQLState("XX000"), "")
        for body in [[], [0], [0, 0, 0], Self.fields([("Z", "z"), ("q", "")]), [0x4D], [0x4D, 0x61]]
            as [[UInt8]]
        {
            #expect(parse(body) == empty)
        }
    }

    @Test func `a zero in a message does not end the field early`() {
        let error = ErrorResponse(.error, .syntaxError, "a\u{0}Mb", detail: "\u{0}")
        let body = Array(error.encoded[5...])
        #expect(parse(body) == ErrorResponse(.error, .syntaxError, "aMb", detail: ""))
    }

    @Test(arguments: [31, 32] as [UInt64])
    func `what was written is read again`(seed: UInt64) {
        var random = SeededGenerator(seed: seed)
        func text() -> String {
            String(
                (0..<Int.random(in: 0..<20, using: &random)).map { _ in
                    "aé\"'\\\n🐦".randomElement(using: &random) ?? "a"
                })
        }
        for _ in 0..<500 {
            let error = ErrorResponse(
                Bool.random(using: &random) ? .error : .fatal, SQLState("53300"), text(),
                detail: Bool.random(using: &random) ? text() : nil,
                hint: Bool.random(using: &random) ? text() : nil)
            #expect(parse(Array(error.encoded[5...])) == error, "seed \(seed)")
        }
    }

    @Test(arguments: [
        ("08000", true), ("08006", true), ("08P01", false), ("25006", true), ("53000", true), ("53300", true),
        ("57P01", true), ("57P02", true), ("57P03", true), ("58030", true), ("58P01", true), ("XX001", true), ("XX002", true),
        ("57014", false), ("57P04", false), ("57P05", false), ("42601", false), ("23505", false),
        ("40001", false),
        ("25P02", false), ("XX000", false), ("", false),
    ])
    func `only a server's own failures may be run again elsewhere`(code: String, isServersOwn: Bool) {
        #expect(SQLState(code).isServersOwn == isServersOwn)
    }
}
