import Configuration
import Console
import Foundation
import Lifecycle
import Logging
import Migration

/// One thing that an operator has ordered of a running Godwit and that its file does not have, for the one that takes
/// its place. Immutable, any thread.
enum StandingOrder: Codable, Equatable {
    case set(SettingOverride)
    case traffic(database: String, TrafficPlan.Record)
    case mirror(database: String, HandedOrders.Mirroring)
    case gate(GateStanding)

    /// What it is about, without its values.
    var words: String {
        switch self {
        case .set(let override): "SET \(override.key)"
        case .traffic(let database, _): "READS and FORCE of \"\(database)\""
        case .mirror(let database, _): "MIRROR of \"\(database)\""
        case .gate: "PAUSE and DISABLE"
        }
    }
}

/// Those orders that settings and shares do not hold. Immutable, any thread.
struct HandedOrders {
    struct Mirroring: Codable, Equatable {
        var isPaused = false
        /// nil: the file's.
        var rowsPerSecond: Int?
    }

    var mirrors: [String: Mirroring] = [:]
    var gate = GateStanding()

    /// - Returns: nil, and it is told, when another version has said what this one does not know.
    static func parse(_ text: String, _ logger: Logger) -> StandingOrder? {
        let order = HandOverText.value(StandingOrder.self, text)
        if order == nil {
            logger.warning("the process before has an order that this version does not know: give it again")
        }
        return order
    }
}

/// Values as one word of a hand-over. No state, any thread.
enum HandOverText {
    /// - Returns: nil when it would be too long.
    static func text(_ value: some Encodable) -> String? {
        guard let data = try? JSONEncoder().encode(value), data.count <= TakeoverOffer.wordBytesMax else { return nil }
        return String(decoding: data, as: UTF8.self)
    }

    /// - Returns: nil when it is of another version.
    static func value<Value: Decodable>(_ type: Value.Type, _ text: String) -> Value? {
        try? JSONDecoder().decode(type, from: Data(text.utf8))
    }
}
