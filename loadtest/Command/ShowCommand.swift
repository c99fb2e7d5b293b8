import ArgumentParser
import Capture
import Foundation
import Replay

/// Prints a capture.
struct ShowCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "show", abstract: "Print what a capture holds, in order of time.",
        discussion: "Exit status: 0, or 2 when it is no capture or is damaged.")

    @Argument(help: "The capture; - for standard input.") var file: String
    @Flag(name: .long, help: "One JSON object for each record.") var json = false
    @Flag(name: .long, help: "Counts only.") var summary = false
    @Option(name: .long, help: "This connection only.") var connection: UInt64?

    func run() throws {
        do throws(CaptureError) {
            try show()
        } catch {
            complain("\(error)")
            throw ExitCode(2)
        }
    }

    private func show() throws(CaptureError) {
        let reader = try CaptureFileReader(path: file)
        var merger = RecordMerger()
        var counts = CaptureCounts()
        var lines: [UInt8] = []
        func take(isAll: Bool) {
            merger.take(isAll: isAll) { record in
                if connection.map({ $0 != record.connection }) == true { return }
                counts.add(record)
                if summary { return }
                lines += Array((json ? RecordText.json(record) : RecordText.line(record)).utf8) + [0x0A]
            }
            if lines.count > 1 << 16 || isAll {
                FileHandle.standardOutput.write(Data(lines))
                lines.removeAll(keepingCapacity: true)
            }
        }
        var hasHeader = false
        while let frame = try reader.next() {
            if !hasHeader, !json { printHeader(reader) }
            hasHeader = true
            merger.add(try RecordReader.records(of: frame.payload), of: Int(frame.thread))
            take(isAll: false)
        }
        if !hasHeader, !json { printHeader(reader) }
        take(isAll: true)
        if summary { print(counts.text) }
        if !reader.hasEnd {
            complain("the capture has no end: it is still being written, or its writer was stopped "
                + "(\(reader.tailBytes) bytes of a torn frame)")
        }
        if reader.damagedBytes > 0 || reader.missingFrames > 0 {
            complain("damaged: \(reader.damagedBytes) bytes are no frame, \(reader.missingFrames) frames are missing")
            throw .damagedFrame(offset: reader.bytesRead)
        }
    }

    private func printHeader(_ reader: CaptureFileReader) {
        guard let beginning = reader.beginning else { return }
        let date = Date(timeIntervalSince1970: Double(beginning.wallMicros) / 1e6).formatted(.iso8601)
        var words = "# \(beginning.database), since \(date), by \(beginning.writer)"
        if beginning.sampleHundredths < 10_000 {
            words += ", \(Double(beginning.sampleHundredths) / 100) % of connections"
        }
        if reader.flags.contains(.redacted) { words += ", redacted" }
        if reader.flags.contains(.digests) { words += ", with digests" }
        if reader.flags.contains(.withoutOutcomes) { words += ", without results" }
        if reader.flags.contains(.withoutTimes) { words += ", without the times of answers" }
        FileHandle.standardOutput.write(Data((words + "\n").utf8))
    }
}

/// What there is how many of.
private struct CaptureCounts {
    private var kinds: [String: Int] = [:]
    private var first: UInt64?
    private var last: UInt64 = 0

    mutating func add(_ record: CaptureRecord) {
        first = first ?? record.micros
        last = max(last, record.micros)
        let kind: String =
            switch record.content {
            case .connect: "connections"
            case .disconnect: "disconnects"
            case .dropped: "dropped connections"
            case .message(let tag, _, _): "messages \(String(UnicodeScalar(tag)))"
            case .ready: "units answered"
            case .answer: "statements answered"
            case .error: "errors"
            case .cancel: "cancel requests"
            case .prepared: "statements prepared before"
            case .omitted: "COPY data left out"
            }
        kinds[kind, default: 0] += 1
    }

    var text: String {
        let seconds = String(format: "%.1f", Double(last - (first ?? last)) / 1e6)
        return (["\(seconds) s"] + kinds.sorted { $0.key < $1.key }.map { "\($0.value) \($0.key)" })
            .joined(separator: "\n")
    }
}
