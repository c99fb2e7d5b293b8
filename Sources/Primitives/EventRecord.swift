import Glibc

/// One decision of Godwit's, as operators, hooks and the state store get it. Immutable, any thread.
package struct EventRecord: Sendable, Equatable {
    package enum Kind: String, Sendable, CaseIterable {
        /// A breaker opened: the side is not used until it has proven itself.
        case trip
        /// A breaker lets probes through.
        case probe
        /// A breaker closed: the side is used as before.
        case recovery
        /// A statement shape was sent back to the authority alone.
        case demotion
        /// A read that was compared has different answers on both sides: told once for each statement shape.
        case mismatch
        /// The share of reads was lowered, or would be: see `rollback` in the settings.
        case rollback, alarm
        /// An operator overruled a breaker.
        case force
        case reload
        /// A mirror stops, waits or goes on.
        case mirror
        /// Clients that keep their servers have taken most of a pool.
        case pinFlood = "pin_flood"
        /// The migration is at another step: an operator changed the share of reads.
        case phase
        /// Another side takes the writes, or was to.
        case authority
        /// Godwit began.
        case start
        /// An operator's order on the console, or by a signal: PAUSE, RESUME, KILL, SET, DISABLE and their like.
        case order
        /// Godwit ends, or lets its clients go before it does.
        case shutdown
        /// A statement of DDL ran on both sides.
        case ddl
        /// Another process takes this one's place, or has failed to.
        case takeover
    }

    /// A number that tells how it came to the decision; the unit is in the name.
    package struct Figure: Sendable, Equatable {
        package var name: String
        package var value: Double

        package init(_ name: String, _ value: Double) {
            self.name = name
            self.value = value
        }

        /// Whole numbers without a fraction, others to three digits.
        package var text: String {
            if value == value.rounded(), abs(value) < 1e15 { return "\(Int64(value))" }
            return "\((value * 1000).rounded() / 1000)"
        }
    }

    /// Bytes of a cause that are kept: it may quote a server's message.
    package static let causeBytesMax = 1000

    /// From 1, in the order in which they were kept; 0 before that.
    package internal(set) var number: UInt64 = 0
    /// Microseconds since 1970.
    package internal(set) var micros: Int64 = 0
    package let kind: Kind
    /// Empty: it is about the process.
    package let database: String
    package let side: Side?
    /// One sentence.
    package let cause: String
    package let figures: [Figure]

    package init(
        _ kind: Kind, database: String = "", side: Side? = nil, cause: String, figures: [Figure] = []
    ) {
        self.kind = kind
        self.database = database
        self.side = side
        let isLong = cause.utf8.count > Self.causeBytesMax
        self.cause = isLong ? String(decoding: cause.utf8.prefix(Self.causeBytesMax), as: UTF8.self) : cause
        self.figures = figures
    }

    /// `2026-11-21T09:42:01.123Z`
    package var time: String { Self.time(micros: micros) }

    /// Microseconds since 1970, as `2026-11-21T09:42:01.123Z`.
    package static func time(micros: Int64) -> String {
        var seconds = time_t(micros / 1_000_000)
        var parts = tm()
        gmtime_r(&seconds, &parts)
        func digits(_ number: Int, _ count: Int) -> String {
            let text = "\(number)"
            return String(repeating: "0", count: max(0, count - text.count)) + text
        }
        let date = "\(parts.tm_year + 1900)-\(digits(Int(parts.tm_mon) + 1, 2))-\(digits(Int(parts.tm_mday), 2))"
        let clock = [parts.tm_hour, parts.tm_min, parts.tm_sec].map { digits(Int($0), 2) }.joined(separator: ":")
        return "\(date)T\(clock).\(digits(Int(micros / 1000 % 1000), 3))Z"
    }

    /// `failures=5 held_s=30`
    package var figuresText: String { Self.text(of: figures) }

    package static func text(of figures: [Figure]) -> String {
        figures.map { "\($0.name)=\($0.text)" }.joined(separator: " ")
    }

    /// One object (RFC 8259), without a newline.
    package var json: String {
        let numbers = figures.map { "\(JSONText.quoted($0.name)):\($0.value.isFinite ? $0.text : "null")" }
        return "{\"number\":\(number),\"time\":\"\(time)\",\"kind\":\"\(kind.rawValue)\","
            + "\"database\":\(JSONText.quoted(database)),"
            + "\"side\":\(side.map { JSONText.quoted($0.description) } ?? "null"),"
            + "\"cause\":\(JSONText.quoted(cause)),\"figures\":{\(numbers.joined(separator: ","))}}"
    }
}

/// Text in JSON. No state, any thread.
package enum JSONText {
    /// A string (RFC 8259, section 7).
    package static func quoted(_ text: String) -> String {
        var quoted = "\""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\"": quoted += "\\\""
            case "\\": quoted += "\\\\"
            case _ where scalar.value < 0x20:
                let hex = String(scalar.value, radix: 16)
                quoted += "\\u" + String(repeating: "0", count: 4 - hex.count) + hex
            default: quoted.unicodeScalars.append(scalar)
            }
        }
        return quoted + "\""
    }
}
