import Capture
import Replay

enum LogFuzz {
    /// The first byte says which form it is. What comes of it can be written and read as a capture.
    static func log(_ bytes: [UInt8]) {
        var translator = LogTranslator()
        var records: [CaptureRecord] = []
        func add(_ entry: LogEntry) { translator.add(entry) { records.append($0) } }
        let text = Array(bytes.dropFirst())
        do throws(LogError) {
            switch bytes.first {
            case UInt8(ascii: "c"): CSVLog.entries(text) { add($0) }
            case UInt8(ascii: "s"): try StderrLog(prefix: "%m [%p] %q%u@%d ").entries(text) { add($0) }
            case UInt8(ascii: "n"): try StderrLog(prefix: "%n %c %e %a ").entries(text) { add($0) }
            default:
                try PgreplayFile.events(text) { event, session, micros, who in
                    translator.add(event, session: session, micros: micros, who: who) { records.append($0) }
                }
            }
        } catch {
            // A file that ends in the midst of an item: what came before counts.
        }
        translator.finish { records.append($0) }
        var buffer = RecordBuffer(capacity: 0)
        // As a capture has them: by time.
        records.sort { $0.micros < $1.micros }
        for record in records { buffer.append(record) }
        precondition((try? RecordReader.records(of: buffer.bytes)) == records, "a record that changes")
    }
}
