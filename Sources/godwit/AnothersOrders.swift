import ControlPlane
import Mirroring
import PGWire
import Proxy

/// What only the Godwit with the mirrors can do, of several with one state.
extension ServeState {
    /// It is to be said there, or later.
    func isAnothers(_ request: ControlRequest) -> Bool {
        if duty.isOurs { return false }
        switch request {
        case .switchOver, .mirror: return true
        // A word of ours would take the place of all that is stored.
        case .reads, .force: return !memory.isInformed
        case .set(let key, _): return !memory.isInformed && key.hasSuffix("percent")
        case .reload, .shadow, .gate, .capture: return false
        }
    }

    /// Who that is, for who says it here.
    var elsewhere: ControlOutcome {
        if !memory.isInformed {
            return .failed(ErrorResponse(
                .error, SQLState("55000"), "the state store is away, and nothing was done",
                detail: "This Godwit has begun without it: all reads go to where the writes do.",
                hint: "Say it again when the store is back, or to a Godwit that knows it."))
        }
        let message = "this is an order for the Godwit that has the mirrors, and nothing was done"
        let advice = "Say it in that one's console, or let `godwit migrate advance` find it."
        switch store?.presentTerm {
        case .others(let process, let address):
            let place = address.isEmpty ? " (it has no state.address)" : ", whose HTTP is \(address)"
            return .failed(ErrorResponse(
                .error, SQLState("55000"), message, detail: "It is \(process)\(place).", hint: advice))
        case .ours:
            return .failed(ErrorResponse(
                .error, SQLState("55000"), message, detail: "This one is about to have them.", hint: "Say it again."))
        case .nobody, .unknown, nil:
            return .failed(ErrorResponse(
                .error, SQLState("55000"), message, detail: "The state store does not say which one it is.",
                hint: "It is the one where SHOW MIRROR says mirroring."))
        }
    }
}

extension ServeAssembly {
    /// For the log and a pager.
    static func words(_ absence: StateStore.Failure) -> String {
        "begun without its state, all reads go to where the writes do: \(absence)"
    }
}
