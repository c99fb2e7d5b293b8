import ArgumentParser
import Capture
import Foundation
import Replay

/// Makes a capture out of a server's log.
struct ImportCommand: ParsableCommand {
    enum Format: String, ExpressibleByArgument, CaseIterable { case csvlog, stderr, pgreplay }

    static let configuration = CommandConfiguration(
        commandName: "import", abstract: "Make a capture out of PostgreSQL's log, or of a file of pgreplay.",
        discussion: """
            PostgreSQL should have logged with log_statement=all, log_connections and log_disconnections on, and \
            log_min_duration_statement=0 or log_duration=on where the order of answers matters. Bound values come from \
            DETAIL. A log has no results, so a replay compares nothing with it. Left out are COPY FROM STDIN, whose \
            rows no log has, SET client_encoding, since the log is in the database's, and statements of nearly 16 MiB \
            or more, which no capture holds. Exit status: 0, or 2 when it could not be read: then nothing is written.
            """)

    @Argument(help: "The log; - for standard input.") var file: String
    @Option(name: .long, help: "The capture to write; a new file.") var to: String
    @Option(name: .long, help: "csvlog, stderr or pgreplay.") var format: Format
    @Option(name: .long, help: "log_line_prefix, for stderr.") var prefix = "%m [%p] "

    @Option(name: .long, help: "This database's sessions only; of stderr, %d or log_connections must tell them.")
    var database: String?

    func run() throws {
        do {
            try translate([UInt8](try read()))
        } catch let error as LogError {
            complain("\(error)")
            throw ExitCode(2)
        } catch let error as CaptureError {
            complain("\(error)")
            throw ExitCode(2)
        }
    }

    private func read() throws(LogError) -> Data {
        if file == "-" { return FileHandle.standardInput.readDataToEndOfFile() }
        do {
            return try Data(contentsOf: URL(filePath: file))
        } catch {
            throw .file("\(file) cannot be read: \(error.localizedDescription)")
        }
    }

    private func translate(_ bytes: [UInt8]) throws {
        var translator = LogTranslator(database: database)
        var records: [CaptureRecord] = []
        switch format {
        case .csvlog: CSVLog.entries(bytes) { translator.add($0) { records.append($0) } }
        case .stderr: try StderrLog(prefix: prefix).entries(bytes) { translator.add($0) { records.append($0) } }
        case .pgreplay:
            try PgreplayFile.events(bytes) { event, session, micros, who in
                translator.add(event, session: session, micros: micros, who: who) { records.append($0) }
            }
        }
        translator.finish { records.append($0) }
        if translator.copiesLeftOut > 0 {
            complain("\(translator.copiesLeftOut) COPY FROM STDIN are left out: a log does not have their rows")
        }
        if translator.longLeftOut > 0 {
            complain("\(translator.longLeftOut) statements are left out: they are longer than a capture may hold")
        }
        if translator.statements == 0 { throw LogError.nothing }
        try write(records, translator.hasTimes ? [.withoutOutcomes] : [.withoutOutcomes, .withoutTimes])
        print("\(translator.statements) statements")
    }

    private func write(_ records: [CaptureRecord], _ flags: CaptureFormat.Flags) throws(CaptureError) {
        // By time; what a session did keeps its order.
        let ordered = records.enumerated().sorted { ($0.element.micros, $0.offset) < ($1.element.micros, $1.offset) }
        let file = try CaptureFileWriter(path: to, flags: flags)
        let now = UInt64(Date().timeIntervalSince1970 * 1e6)
        let beginning = CaptureBeginning(
            wallMicros: now, database: "", sampleHundredths: 10_000, writer: "loadtest import \(format.rawValue)")
        try file.write(.begin, thread: 0, payload: beginning.payload)
        var buffer = RecordBuffer(capacity: 1 << 17)
        for (_, record) in ordered {
            buffer.append(record)
            if buffer.count < 1 << 17 { continue }
            try file.write(buffer, thread: 0)
            buffer.removeAll()
        }
        try file.write(buffer, thread: 0)
        try file.write(.end, thread: 0, payload: [])
    }
}
