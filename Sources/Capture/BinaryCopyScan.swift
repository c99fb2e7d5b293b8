/// Where the fields are in the data of a binary COPY, which may be cut into messages anywhere. One COPY's value.
struct BinaryCopyScan {
    private enum State {
        /// So many bytes that are no field's remain, and the next thing is this one.
        case skipping(Int)
        /// Numbers, in so many bytes.
        case fieldCount, fieldLength
        case field(Int)
        /// Behind the last row, or what is no binary COPY.
        case ended
    }

    private static let signature: [UInt8] = Array("PGCOPY\n".utf8) + [0xFF, 0x0D, 0x0A, 0]
    /// Signature, flags, and the length of an extension.
    private static let headerSize = 19

    private var state: State
    private var number: [UInt8] = []
    private var fieldsLeft = 0

    /// - Parameter body: of a COPY's first message; nil: it does not begin as binary data does.
    init?(beginning body: [UInt8]) {
        guard body.count >= Self.headerSize, body.starts(with: Self.signature),
            body[15..<19].allSatisfy({ $0 == 0 })
        else { return nil }
        state = .skipping(Self.headerSize)
    }

    /// - Parameter value: what stands in a field's place, of the same length; a field that is cut comes in pieces.
    mutating func replace(_ body: [UInt8], _ value: ([UInt8]) -> [UInt8]) -> [UInt8] {
        var made: [UInt8] = []
        made.reserveCapacity(body.count)
        var rest = body[...]
        while !rest.isEmpty {
            switch state {
            case .skipping(let count):
                let piece = rest.prefix(count)
                made += piece
                rest = rest.dropFirst(piece.count)
                state = piece.count == count ? .fieldCount : .skipping(count - piece.count)
            case .fieldCount:
                guard let count = take(2, from: &rest, into: &made) else { continue }
                fieldsLeft = Int(Int16(truncatingIfNeeded: count))
                state = fieldsLeft > 0 ? .fieldLength : fieldsLeft == 0 ? .fieldCount : .ended
            case .fieldLength:
                guard let length = take(4, from: &rest, into: &made) else { continue }
                let size = Int(Int32(truncatingIfNeeded: length))
                if size > 0 { state = .field(size) } else if size >= -1 { endField() } else { state = .ended }
            case .field(let size):
                let piece = Array(rest.prefix(size))
                made += value(piece)
                rest = rest.dropFirst(piece.count)
                if piece.count == size { endField() } else { state = .field(size - piece.count) }
            case .ended:
                made += [UInt8](repeating: 0, count: rest.count)
                rest = []
            }
        }
        return made
    }

    private mutating func endField() {
        fieldsLeft -= 1
        state = fieldsLeft > 0 ? .fieldLength : .fieldCount
    }

    private mutating func take(_ count: Int, from rest: inout ArraySlice<UInt8>, into made: inout [UInt8]) -> UInt32? {
        let piece = rest.prefix(count - number.count)
        number += piece
        made += piece
        rest = rest.dropFirst(piece.count)
        if number.count < count { return nil }
        defer { number = [] }
        return number.reduce(0) { $0 << 8 | UInt32($1) }
    }
}
