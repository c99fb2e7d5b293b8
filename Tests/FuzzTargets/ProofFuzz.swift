import Digests
import PGWire

enum ProofFuzz {
    static let stored = SCRAMSecret(
        iterations: 4096, salt: Array(1...16), storedKey: Array(repeating: 7, count: 32),
        serverKey: Array(repeating: 9, count: 32))
    static let keys = SCRAMKeys(
        iterations: 4096, salt: Array(1...16), clientKey: Array(repeating: 5, count: 32),
        serverKey: Array(repeating: 9, count: 32))

    /// Lines are messages. Nobody proves what he does not know.
    static func server(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let choice = input.byte()
        let binding = choice & 1 == 0 ? nil : Array(repeating: UInt8(1), count: 32)
        var exchange = SCRAMServer(secret: stored, isKnownUser: true, randomBytes: Array(0..<18), binding: binding)
        let messages = input.remainder().split(separator: 0x0A, omittingEmptySubsequences: false).map(Array.init)
        do {
            for (index, message) in messages.enumerated() {
                if index == 0 {
                    let answer = try exchange.first(message, mechanism: choice & 2 == 0 ? .plain : .plus)
                    precondition(answer.count <= message.count + 100, "an answer without bound")
                } else {
                    _ = try exchange.final(message)
                    preconditionFailure("a proof of nothing")
                }
            }
        } catch {
            precondition(exchange.provenKeys == nil, "keys that nobody has proven")
        }
    }

    /// Lines are messages. No server proves what it does not know.
    static func client(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let bindings: [SCRAMClient.Binding] = [.none, .notOffered, .endpoint(Array(repeating: 1, count: 32))]
        let binding = bindings[Int(input.byte()) % bindings.count]
        var exchange = SCRAMClient(keys: keys, randomBytes: Array(0..<18), binding: binding)
        _ = exchange.first()
        let messages = input.remainder().split(separator: 0x0A, omittingEmptySubsequences: false).map(Array.init)
        do {
            for (index, message) in messages.enumerated() {
                if index == 0 {
                    let answer = try exchange.final(serverFirst: message)
                    precondition(answer.count <= message.count + 200, "an answer without bound")
                } else {
                    try exchange.verify(serverFinal: message)
                    preconditionFailure("a signature of nothing")
                }
            }
        } catch {
            return
        }
    }

    /// A secret that is taken is one that can be used; a password is prepared once and for all.
    static func secret(_ bytes: [UInt8]) {
        if let secret = SCRAMSecret(parsing: String(decoding: bytes, as: UTF8.self)) {
            precondition((1...SCRAMSecret.iterationsMax).contains(secret.iterations), "iterations out of bounds")
            precondition(secret.storedKey.count == 32 && secret.serverKey.count == 32, "keys of another size")
        }
        let prepared = PreparedPassword.bytes(bytes)
        precondition(PreparedPassword.bytes(prepared) == prepared, "a password that is prepared twice is another")
    }
}
