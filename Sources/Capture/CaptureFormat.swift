import CXXHash
import Glibc

/// The numbers of the capture file format (docs/CAPTURE.md). Integers are little-endian but within messages of the
/// protocol, which are as PostgreSQL has them.
package enum CaptureFormat {
    package static let magic = Array("GODWITCP".utf8)
    package static let version: UInt16 = 3
    /// The first version that this one can read: 3 added kinds of records.
    package static let versionMin: UInt16 = 2
    /// Magic, version, flags, four zero bytes.
    package static let fileHeaderSize = 16
    package static let frameHeaderSize = 32
    package static let frameMagic: UInt32 = 0x4652_4D47  // "GMRF" as bytes in the file
    /// Bytes of a frame's records before compression. A record is in one frame.
    package static let payloadMax = 20 << 20
    /// Bytes of one message. What is longer cannot be kept, and with it the rest of its connection.
    package static let messageMax = 16 << 20
    /// Bytes of an error's message, of a name, of one setting's statement.
    package static let textMax = 64 << 10
    /// Settings of one connection.
    package static let settingsMax = 1000
    /// Bytes of all of them, names and statements: a connection's record is in one frame.
    package static let settingsBytesMax = 8 << 20

    /// What the file's header says of all that follows.
    package struct Flags: OptionSet, Sendable {
        package let rawValue: UInt16
        package init(rawValue: UInt16) { self.rawValue = rawValue }
        /// Literals and parameters are pseudonyms.
        package static let redacted = Flags(rawValue: 1)
        /// Outcomes have digests of their rows.
        package static let digests = Flags(rawValue: 2)
        /// What statements gave is not in it: it comes from a log.
        package static let withoutOutcomes = Flags(rawValue: 4)
        /// When a statement had its answer is not in it: at the latest when its connection sent the next.
        package static let withoutTimes = Flags(rawValue: 8)
    }

    package enum FrameKind: UInt8, Sendable {
        /// First in the file: what was captured, and when it began.
        case begin = 1
        case records = 2
        /// Last in the file: the capture was ended, and did not just stop.
        case end = 3
    }

    package enum Compression: UInt8, Sendable {
        case none = 0
        case zstd = 1
    }
}

/// The first byte of a record. Records of what a client sent bear the protocol's own type byte.
package enum RecordKind {
    package static let connect = UInt8(ascii: "+")
    package static let disconnect = UInt8(ascii: "-")
    /// A statement that was prepared before the capture came to the connection: the body of its Parse.
    package static let prepared = UInt8(ascii: "p")
    /// COPY data that was too much to be kept: how many bytes.
    package static let omitted = UInt8(ascii: "o")
    /// Nothing more of this connection is kept, though it went on.
    package static let dropped = UInt8(ascii: "!")
    /// A cancel request for what is running.
    package static let cancel = UInt8(ascii: "k")
    package static let ready = UInt8(ascii: "z")
    package static let answer = UInt8(ascii: "a")
    /// `answer` with `ready` behind it.
    package static let lastAnswer = UInt8(ascii: "A")
    package static let error = UInt8(ascii: "e")
    /// Several messages of a client that came together.
    package static let messages = UInt8(ascii: "m")
}

/// XXH3 of 64 bits: guards frames against what a disk does to them, and tells rows apart. Not against forgers.
enum Checksum {
    static func of(_ bytes: UnsafeRawBufferPointer, seed: UInt64 = 0) -> UInt64 {
        XXH3_64bits_withSeed(bytes.baseAddress, bytes.count, seed)
    }
}

/// Why bytes are no capture. Immutable, any thread.
package enum CaptureError: Error, Equatable, Sendable, CustomStringConvertible {
    case notACapture
    case unknownVersion(UInt16)
    /// At this place in the file.
    case damagedFrame(offset: UInt64)
    case damagedRecord
    /// More than a frame holds.
    case tooLong(bytes: Int)
    case compression(String)
    case file(path: String, errno: Int32)
    case full(path: String)

    package var description: String {
        switch self {
        case .notACapture: "this is no capture of Godwit's: it does not begin with GODWITCP"
        case .unknownVersion(let version):
            """
            the capture has format version \(version); this program knows \(CaptureFormat.versionMin) to \
            \(CaptureFormat.version): take it anew
            """
        case .damagedFrame(let offset): "the capture is damaged at byte \(offset): a frame fails its checksum"
        case .damagedRecord: "the capture holds a record that cannot be"
        case .tooLong(let bytes): "\(bytes) bytes of records are more than a frame of a capture holds"
        case .compression(let reason): "zstd: \(reason)"
        case .file(let path, let code): "\(path): \(String(cString: strerror(code)))"
        case .full(let path): "\(path): no space is left"
        }
    }
}
