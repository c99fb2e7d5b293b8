import Primitives

/// What a client sends before anything else (protocol-flow, PROTOCOL-FLOW-START-UP). Immutable, any thread.
package enum StartupPacket: Equatable, Sendable {
    case sslRequest
    case gssEncryptionRequest
    case cancelRequest(processID: Int32, secret: [UInt8])
    /// Names and values in the order they came; `user` is among them.
    case startup(minor: UInt16, parameters: [Parameter])

    package struct Parameter: Equatable, Sendable {
        package var name: String
        package var value: String
        package init(name: String, value: String) {
            self.name = name
            self.value = value
        }

        /// By bytes: what a client sets in another Unicode form is another value.
        package static func == (left: Parameter, right: Parameter) -> Bool {
            left.name.hasSameBytes(as: right.name) && left.value.hasSameBytes(as: right.value)
        }
    }

    /// SSLRequest as it is sent.
    package static let sslRequestBytes: [UInt8] = [0, 0, 0, 8, 4, 210, 22, 47]
    /// The newest minor version of protocol 3 that we speak.
    package static let newestMinor: UInt16 = 2
    /// Bytes of a cancel key: 4 up to protocol 3.0, at most 256 since 3.2.
    package static let cancelSecretMax = 256

    /// Reads one packet from the start of `bytes`.
    ///
    /// - Returns: nil when the packet is not whole yet; otherwise the packet and its size in bytes.
    package static func parse(
        _ bytes: UnsafeRawBufferPointer
    ) throws(WireError) -> (packet: StartupPacket, size: Int)? {
        if bytes.count < 4 { return nil }
        let length = Int(UInt32(bigEndian: bytes.loadUnaligned(as: UInt32.self)))
        if length < 8 || length > WireLimits.startupPacketMax { throw .malformedStartup }
        if bytes.count < length { return nil }
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: bytes[4..<length]))
        guard let code = reader.int32() else { throw .malformedStartup }
        let major = UInt16(truncatingIfNeeded: code >> 16)
        let minor = UInt16(truncatingIfNeeded: code)
        switch (major, minor) {
        case (1234, 5678):
            guard let processID = reader.int32(), reader.remaining >= 4, reader.remaining <= cancelSecretMax else {
                throw .malformedStartup
            }
            return (.cancelRequest(processID: processID, secret: Array(reader.rest())), length)
        case (1234, 5679):
            guard reader.isAtEnd else { throw .malformedStartup }
            return (.sslRequest, length)
        case (1234, 5680):
            guard reader.isAtEnd else { throw .malformedStartup }
            return (.gssEncryptionRequest, length)
        case (3, _):
            return (.startup(minor: minor, parameters: try parameters(&reader)), length)
        default:
            throw .unsupportedProtocol(major: major, minor: minor)
        }
    }

    private static func parameters(_ reader: inout BodyReader) throws(WireError) -> [Parameter] {
        var parameters: [Parameter] = []
        while true {
            guard let name = reader.cString() else { throw .malformedStartup }
            if name.isEmpty { break }
            guard let value = reader.cString() else { throw .malformedStartup }
            let parameter = Parameter(name: String(wire: name), value: String(wire: value))
            if ["user", "database"].contains(parameter.name), !parameter.value.utf8.elementsEqual(value) {
                throw .nameNotUTF8
            }
            parameters.append(parameter)
        }
        guard reader.isAtEnd else { throw .malformedStartup }
        return parameters
    }
}
