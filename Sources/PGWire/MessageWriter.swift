/// Builds messages at the end of a byte array. A value of its owner's thread.
package struct MessageWriter {
    package private(set) var bytes: [UInt8]

    package init(reserving capacity: Int = 0) {
        bytes = []
        if capacity > 0 { bytes.reserveCapacity(capacity) }
    }

    /// One message: the length is filled in when `body` returns.
    package mutating func message(_ tag: UInt8, _ body: (inout MessageWriter) -> Void) {
        bytes.append(tag)
        framed(body)
    }

    /// A message without type byte: the startup packet and its kin.
    package mutating func framed(_ body: (inout MessageWriter) -> Void) {
        let start = bytes.count
        int32(0)
        body(&self)
        let length = UInt32(bytes.count - start)
        bytes.withUnsafeMutableBytes { $0.storeBytes(of: length.bigEndian, toByteOffset: start, as: UInt32.self) }
    }

    package mutating func byte(_ value: UInt8) { bytes.append(value) }

    package mutating func int16(_ value: Int16) {
        bytes.append(UInt8(truncatingIfNeeded: value >> 8))
        bytes.append(UInt8(truncatingIfNeeded: value))
    }

    package mutating func int32(_ value: Int32) {
        withUnsafeBytes(of: value.bigEndian) { bytes.append(contentsOf: $0) }
    }

    /// Zero bytes in it are left out.
    package mutating func cString(_ text: String) {
        var text = text
        text.withUTF8 { units in
            if units.contains(0) {
                bytes.append(contentsOf: units.filter { $0 != 0 })
            } else {
                bytes.append(contentsOf: units)
            }
        }
        bytes.append(0)
    }

    package mutating func raw(_ content: some Sequence<UInt8>) { bytes.append(contentsOf: content) }
}

// MARK: whole messages

extension MessageWriter {
    package mutating func authentication(_ code: Int32, _ extra: [UInt8] = []) {
        message(BackendTag.authentication) {
            $0.int32(code)
            $0.raw(extra)
        }
    }

    package mutating func parameterStatus(_ name: String, _ value: String) {
        message(BackendTag.parameterStatus) {
            $0.cString(name)
            $0.cString(value)
        }
    }

    package mutating func backendKeyData(processID: Int32, secret: [UInt8]) {
        message(BackendTag.backendKeyData) {
            $0.int32(processID)
            $0.raw(secret)
        }
    }

    package mutating func readyForQuery(_ status: TransactionStatus) {
        message(BackendTag.readyForQuery) { $0.byte(status.rawValue) }
    }

    package mutating func commandComplete(_ tag: String) {
        message(BackendTag.commandComplete) { $0.cString(tag) }
    }

    package mutating func query(_ sql: String) {
        message(FrontendTag.query) { $0.cString(sql) }
    }

    package mutating func sync() { message(FrontendTag.sync) { _ in } }

    /// Parse with a body that is already on the wire form but for its name.
    package mutating func parse(name: String, rest: [UInt8]) {
        message(FrontendTag.parse) {
            $0.cString(name)
            $0.raw(rest)
        }
    }

    package mutating func closeStatement(name: String) {
        message(FrontendTag.close) {
            $0.byte(UInt8(ascii: "S"))
            $0.cString(name)
        }
    }

    package mutating func password(_ content: [UInt8]) {
        message(FrontendTag.password) { $0.raw(content) }
    }

    package mutating func startup(minor: UInt16 = 0, parameters: [StartupPacket.Parameter]) {
        framed {
            $0.int32(0x0003_0000 | Int32(minor))
            for parameter in parameters {
                $0.cString(parameter.name)
                $0.cString(parameter.value)
            }
            $0.byte(0)
        }
    }

    package mutating func cancelRequest(processID: Int32, secret: [UInt8]) {
        framed {
            $0.int32(1234 << 16 | 5678)
            $0.int32(processID)
            $0.raw(secret)
        }
    }
}
