import PGWire
import Primitives
import Sessions

enum ClientFuzz {
    /// A packet is the same whatever comes behind it, and is not there before its last byte.
    static func startup(_ bytes: [UInt8]) {
        let whole = parsed(bytes)
        switch whole {
        case .packet(_, let size):
            precondition(size >= 8 && size <= min(bytes.count, WireLimits.startupPacketMax), "a size that cannot be")
            precondition(parsed(Array(bytes[..<size])) == whole, "what comes behind a packet changes it")
            precondition(parsed(Array(bytes[..<(size - 1)])) == .incomplete, "a packet before its end")
        case .incomplete:
            precondition(bytes.count < WireLimits.startupPacketMax, "a packet that is waited for without end")
        case .refused:
            precondition(parsed(bytes + [0]) == whole, "what is refused is taken later")
        }
    }

    private enum Parsed: Equatable {
        case incomplete
        case packet(StartupPacket, size: Int)
        case refused(WireError)
    }

    private static func parsed(_ bytes: [UInt8]) -> Parsed {
        bytes.withUnsafeBytes { raw in
            do throws(WireError) {
                guard let (packet, size) = try StartupPacket.parse(raw) else { return .incomplete }
                return .packet(packet, size: size)
            } catch {
                return .refused(error)
            }
        }
    }

    private static let methods: [AuthPolicy.Method] = [.trust, .md5, .password, .scramSHA256]
    private static let policies = methods.map { method in
        AuthPolicy(method: method, secrets: [
            "app": .scram(ProofFuzz.stored), "old": .md5("md5" + String(repeating: "0", count: 32)),
        ])
    }

    /// The same comes of a login however its bytes are cut, and nobody gets in without the password.
    static func login(_ bytes: [UInt8]) {
        var input = FuzzInput(bytes)
        let policy = policies[Int(input.byte()) % policies.count]
        let rest = input.remainder()
        var startups = StartupMemory()
        let whole = actions(policy, [rest], &startups)
        precondition(whole == actions(policy, pieces(rest), &startups), "the pieces of a login change it")
        let isIn = whole.contains { if case .authenticated = $0 { true } else { false } }
        precondition(!isIn || policy.method == .trust, "a login without the password")
        precondition(whole.count <= 12, "answers without end")
    }

    private static func actions(
        _ policy: AuthPolicy, _ parts: [[UInt8]], _ startups: inout StartupMemory
    ) -> [ClientLogin.Action] {
        let random = (0..<ClientLogin.randomByteCount).map { UInt8($0) }
        var login = ClientLogin(policy: policy, randomBytes: random)
        var actions: [ClientLogin.Action] = []
        var waiting: [UInt8] = []
        for part in parts {
            waiting += part
            while !waiting.isEmpty {
                let before = actions.count
                let count = waiting.withUnsafeBytes { login.receive($0, &startups, &actions) }
                precondition(count >= 0 && count <= waiting.count, "more consumed than there is")
                precondition(count > 0 || actions.count == before, "an answer to nothing")
                if actions.dropFirst(before).contains(where: ends) { return actions }
                if count == 0 { break }
                waiting.removeFirst(count)
            }
            precondition(waiting.count < ClientLogin.bufferedMax + 1, "a login that waits without end")
        }
        return actions
    }

    private static func ends(_ action: ClientLogin.Action) -> Bool {
        switch action {
        case .authenticated, .cancel, .refuse, .dismiss, .close: true
        case .send, .startTLS, .lookUpSecret, .lookUpSystemUser: false
        }
    }

    /// The units of a stream are the same however it is cut.
    static func unit(_ bytes: [UInt8]) {
        let whole = units([bytes])
        precondition(whole == units(pieces(bytes)), "the pieces of a stream change its units")
    }

    private struct Seen: Equatable {
        var ends: [UnitScanner.Progress] = []
        var frames: [FrontendFrame] = []
        var left = 0
    }

    private static func units(_ parts: [[UInt8]]) -> Seen {
        var seen = Seen()
        var scanner = UnitScanner()
        var waiting: [UInt8] = []
        var toSkip = 0
        for part in parts {
            waiting += part
            let skipped = min(toSkip, waiting.count)
            waiting.removeFirst(skipped)
            toSkip -= skipped
            scanning: while true {
                let progress = waiting.withUnsafeBytes { raw in
                    scanner.scan(raw) { frame in
                        precondition(frame.start >= 0 && frame.bodyStart <= frame.end && frame.end <= raw.count, "beyond")
                        seen.frames.append(frame)
                    }
                }
                precondition(scanner.offset <= waiting.count, "more scanned than there is")
                let end: Int
                switch progress {
                case .needsMore: break scanning
                case .stray(let unit):
                    seen.ends.append(progress)
                    let skipped = min(unit, waiting.count)
                    waiting.removeFirst(skipped)
                    toSkip = unit - skipped
                    continue
                case .simple(let unit), .functionCall(let unit), .extended(let unit, _): end = unit
                case .terminate, .violation:
                    seen.ends.append(progress)
                    return seen
                }
                precondition(end > 0 && end <= waiting.count, "a unit of nothing")
                seen.ends.append(progress)
                waiting.removeFirst(end)
                scanner = UnitScanner()
            }
        }
        seen.left = waiting.count
        return seen
    }

    /// Values lie within the message, whatever its counts say.
    static func bind(_ bytes: [UInt8]) {
        bytes.withUnsafeBytes { raw in
            var reader = BodyReader(raw)
            guard reader.cString() != nil, reader.cString() != nil else { return }
            let types = ParameterTypes(reader)
            _ = types[1] &+ types[2] &+ types[65_535] &+ types[0]
            guard let parameters = BindParameters(reader) else { return }
            precondition(parameters.count <= 65_535, "more than a message can have")
            for number in [-1, 0, 1, 2, 3, 7, parameters.count, parameters.count + 1] {
                guard let value = parameters.value(number) else { continue }
                precondition(number >= 1 && number <= parameters.count, "a value that is not there")
                precondition(value.bytes.count <= raw.count, "a value longer than its message")
                guard let base = raw.baseAddress, let start = value.bytes.baseAddress, value.bytes.count > 0 else { continue }
                precondition(start >= base && start + value.bytes.count <= base + raw.count, "a value beside its message")
            }
        }
    }
}
