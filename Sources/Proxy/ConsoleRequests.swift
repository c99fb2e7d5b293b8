import Configuration
import Console
import Logging
import PGWire
import Primitives
import Reactor
import Sessions

/// SHOW commands that wait for what all threads say of themselves. Used on its reactor's thread.
struct ConsoleRequests {
    private struct Pending {
        var client: ClientID
        var subject: ConsoleCommand.Subject
        var reports: [WorkerReport]
    }

    private var pending: [UInt64: Pending] = [:]
    private var lastRequest: UInt64 = 0

    mutating func start(_ subject: ConsoleCommand.Subject, for client: ClientID, on worker: Worker) {
        lastRequest += 1
        pending[lastRequest] = Pending(client: client, subject: subject, reports: [])
        for peer in worker.peers { peer.post(.collect(request: lastRequest, from: worker.index)) }
    }

    mutating func collected(_ request: UInt64, _ report: WorkerReport, on worker: Worker) {
        guard var waiting = pending[request] else { return }
        waiting.reports.append(report)
        if waiting.reports.count < worker.peers.count {
            pending[request] = waiting
            return
        }
        pending[request] = nil
        let reports = waiting.reports.sorted { $0.worker < $1.worker }
        let table = ConsoleTables(
            snapshot: worker.snapshot, reports: reports, events: waiting.subject == .events ? worker.events.events : []
        ).table(waiting.subject)
        worker.clients[waiting.client]?.consoleAnswered(table)
    }
}

extension ClientConnection {
    /// Console commands come as simple queries, one at a time.
    func processConsole(_ bytes: UnsafeRawBufferPointer) -> Int {
        guard let header = FrameHeader.parse(bytes, at: 0) else { return 0 }
        if let error = header.frontendError() {
            violated(error)
            return bytes.count
        }
        if header.frameSize > ConsoleParser.commandBytesMax + FrameHeader.size {
            violated(.lengthOutOfRange(tag: header.tag, length: header.length))
            return bytes.count
        }
        if bytes.count < header.frameSize { return 0 }
        switch header.tag {
        case FrontendTag.query:
            var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[FrameHeader.size..<header.frameSize]))
            run(reader.cString().map { String(wire: $0) } ?? "")
        case FrontendTag.terminate:
            close()
        case FrontendTag.parse, FrontendTag.bind, FrontendTag.describe, FrontendTag.execute, FrontendTag.close,
            FrontendTag.flush:
            if !isSkippingToSync {
                isSkippingToSync = true
                send(ErrorResponse(
                    .error, .featureNotSupported, "the console has no extended query protocol",
                    hint: "Send commands as simple queries, as psql does.").encoded)
            }
        case FrontendTag.sync:
            isSkippingToSync = false
            var writer = MessageWriter()
            writer.readyForQuery(.idle)
            send(writer.bytes)
        default:
            violated(.unexpectedMessage(tag: header.tag))
        }
        return header.frameSize
    }

    private func run(_ text: String) {
        do {
            switch try ConsoleParser.parse(text) {
            case .show(let subject):
                phase = .consoleWaiting
                worker.console.start(subject, for: id, on: worker)
            case .reload:
                askControl(.reload)
            case .reads(let database, let hundredths):
                askControl(.reads(database: database, hundredths: hundredths))
            case .mirror(let database, let order):
                askControl(.mirror(database: database, order))
            case .force(let database, let order):
                askControl(.force(database: database, order))
            case .empty:
                var writer = MessageWriter()
                writer.message(BackendTag.emptyQueryResponse) { _ in }
                writer.readyForQuery(.idle)
                send(writer.bytes)
            case .ignored(let tag):
                answerConsole(tag: tag)
            }
        } catch {
            refuseConsole(error)
        }
    }

    private func askControl(_ request: ControlRequest) {
        phase = .consoleWaiting
        consoleTag =
            switch request {
            case .reload: "RELOAD"
            case .reads: "READS"
            case .mirror: "MIRROR"
            case .force: "FORCE"
            }
        worker.logger.notice("console: user \"\(user)\" from \(address.host): \(request)")
        worker.control.post(.request(request, worker: worker.index, client: id))
    }

    private func refuseConsole(_ failure: ConsoleParser.Failure) {
        let error =
            switch failure {
            case .unknownCommand(let verb):
                ErrorResponse(
                    .error, .syntaxError, "unknown console command \"\(verb)\"",
                    hint: "SHOW HELP lists the commands.")
            case .unknownSubject(let subject):
                ErrorResponse(
                    .error, .syntaxError, "there is no SHOW \(subject)",
                    hint: "SHOW \(ConsoleCommand.Subject.usage)")
            case .usage(let form):
                ErrorResponse(.error, .syntaxError, "the command's form is: \(form)")
            }
        sendConsole(error)
    }

    private func sendConsole(_ error: ErrorResponse) {
        var writer = MessageWriter()
        error.write(to: &writer)
        writer.readyForQuery(.idle)
        send(writer.bytes)
    }

    private func answerConsole(tag: String) {
        var writer = MessageWriter()
        writer.commandComplete(tag)
        writer.readyForQuery(.idle)
        send(writer.bytes)
    }

    func consoleAnswered(_ table: ConsoleReport) {
        guard phase == .consoleWaiting else { return }
        phase = .console
        var writer = MessageWriter(reserving: 4096)
        table.write(to: &writer)
        send(writer.bytes)
        resumeSoon()
    }

    func controlDone(_ outcome: ControlOutcome) {
        guard phase == .consoleWaiting else { return }
        phase = .console
        switch outcome {
        case .done:
            answerConsole(tag: consoleTag)
        case .refused(let reason):
            sendConsole(ErrorResponse(.error, .invalidParameterValue, reason, hint: "Nothing was changed."))
        }
        resumeSoon()
    }
}
