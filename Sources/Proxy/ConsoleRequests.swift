import Console
import PGWire
import Primitives

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
        guard let client = worker.clients[waiting.client] else { return }
        let reports = waiting.reports.sorted { $0.worker < $1.worker }
        client.consoleAnswered(
            worker.table(waiting.subject, reports: reports, speaksPgBouncer: client.console.speaksPgBouncer))
    }
}

extension Worker {
    func table(
        _ subject: ConsoleCommand.Subject, reports: [WorkerReport], speaksPgBouncer: Bool
    ) -> ConsoleReport {
        ConsoleTables(
            snapshot: snapshot, gate: gate, reports: reports, events: subject == .events ? events.events : [],
            captures: subject == .capture ? captures.known : [],
            speaksPgBouncer: speaksPgBouncer
        ).table(subject)
    }
}
