import Console
import Primitives

/// What Godwit has decided by itself.
extension ConsoleTables {
    /// Latest first.
    func eventTable() -> ConsoleReport {
        var table = ConsoleReport([
            .init("number", .bigint), .init("time"), .init("kind"), .init("database"), .init("side"), .init("cause"),
            .init("figures"),
        ])
        for event in events.reversed() {
            table.append([
                "\(event.number)", event.time, event.kind.rawValue, event.database, event.side?.description ?? "",
                event.cause, event.figuresText,
            ])
        }
        return table
    }
}
