import Glibc

/// Changed keys of one table with their rows, as OLD's COPY gives them: see `TablePlan.copyKeyedRows`. What is gathered
/// here goes to NEW at once. Pure; used by the mirror's thread.
struct BacklogPart {
    private let keyCount: Int
    private let bytesMax: Int
    /// Lines for COPY. The keys are those of all lines; `absent` are those without a row.
    private(set) var keys: [UInt8] = []
    private(set) var absent: [UInt8] = []
    private(set) var rows: [UInt8] = []
    private(set) var rowCount = 0
    private var lastKeyStart = 0

    /// - Parameter bytesMax: of the rows, and of the keys.
    init(keyCount: Int, bytesMax: Int) {
        precondition(keyCount > 0 && bytesMax > 0, "a part for nothing")
        self.keyCount = keyCount
        self.bytesMax = bytesMax
    }

    var isEmpty: Bool { keys.isEmpty }

    /// A line of `t` or `f` for whether there is a row, then the key's columns, then the row's.
    struct Line {
        let key: UnsafeRawBufferPointer
        /// With the line's end; nil: the key has no row.
        let row: UnsafeRawBufferPointer?
    }

    /// - Returns: nil when that is no line of ours.
    func parse(_ line: UnsafeRawBufferPointer) -> Line? {
        guard line.count > 2, line[1] == UInt8(ascii: "\t"), let start = line.baseAddress else { return nil }
        var end = 1
        for _ in 0..<keyCount {
            // A tab within a value is written otherwise.
            guard let tab = memchr(start + end + 1, CInt(UInt8(ascii: "\t")), line.count - end - 1) else { return nil }
            end = UnsafeRawPointer(tab) - start
        }
        let key = UnsafeRawBufferPointer(rebasing: line[2..<end])
        switch line[0] {
        case UInt8(ascii: "t"): return Line(key: key, row: UnsafeRawBufferPointer(rebasing: line[(end + 1)...]))
        case UInt8(ascii: "f"): return Line(key: key, row: nil)
        default: return nil
        }
    }

    func hasRoom(for line: Line) -> Bool {
        rows.count + (line.row?.count ?? 0) <= bytesMax && keys.count + line.key.count < bytesMax
    }

    mutating func append(_ line: Line) {
        lastKeyStart = keys.count
        append(line.key, to: \.keys)
        guard let row = line.row else {
            append(line.key, to: \.absent)
            return
        }
        rows.append(contentsOf: row)
        rowCount += 1
    }

    private mutating func append(_ key: UnsafeRawBufferPointer, to list: WritableKeyPath<BacklogPart, [UInt8]>) {
        self[keyPath: list].append(contentsOf: key)
        self[keyPath: list].append(UInt8(ascii: "\n"))
    }

    /// The first and the last key: lines come in the keys' order. nil: no part, or a key that is NULL.
    var bounds: (first: [String], last: [String])? {
        guard let end = keys.firstIndex(of: UInt8(ascii: "\n")),
            let first = CopyText.values(keys[..<end]), let last = CopyText.values(keys[lastKeyStart...].dropLast())
        else { return nil }
        return (first, last)
    }

    mutating func removeAll() {
        keys.removeAll(keepingCapacity: true)
        absent.removeAll(keepingCapacity: true)
        rows.removeAll(keepingCapacity: true)
        rowCount = 0
    }
}

/// PostgreSQL's text format of COPY. Pure.
enum CopyText {
    /// - Returns: nil when one of them is NULL.
    static func values(_ line: ArraySlice<UInt8>) -> [String]? {
        var values: [String] = []
        for field in line.split(separator: UInt8(ascii: "\t"), omittingEmptySubsequences: false) {
            if field.elementsEqual([UInt8(ascii: "\\"), UInt8(ascii: "N")]) { return nil }
            values.append(String(decoding: unescaped(field), as: UTF8.self))
        }
        return values
    }

    private static func unescaped(_ field: ArraySlice<UInt8>) -> [UInt8] {
        var plain: [UInt8] = [], isEscaped = false
        for byte in field {
            if isEscaped {
                plain.append(escapes[byte] ?? byte)
                isEscaped = false
            } else if byte == UInt8(ascii: "\\") {
                isEscaped = true
            } else {
                plain.append(byte)
            }
        }
        return plain
    }

    private static let escapes: [UInt8: UInt8] = [
        UInt8(ascii: "b"): 8, UInt8(ascii: "t"): 9, UInt8(ascii: "n"): 10, UInt8(ascii: "v"): 11, UInt8(ascii: "f"): 12,
        UInt8(ascii: "r"): 13,
    ]
}

/// How a part comes into a table of NEW that has rows between the part's keys. Both ways end in the same rows; which
/// one is cheaper hangs on how many of the keys NEW has already. Pure.
struct BacklogWay {
    enum Way: Equatable {
        /// What NEW has of the keys is deleted, the rows are copied: cheaper where NEW has few of them.
        case replace
        /// The rows are staged, then inserted or updated: cheaper where NEW has most of them.
        case upsert
    }

    /// Parts after which it is looked again what NEW has: only `replace` tells.
    static let upsertsMax = 7

    private(set) var way = Way.replace
    private var upsertsLeft = 0

    /// A part was replaced, and NEW had so many of its keys.
    mutating func replaced(deleted: Int, rows: Int) {
        guard deleted * 2 > rows else { return }
        way = .upsert
        upsertsLeft = Self.upsertsMax
    }

    mutating func upserted() {
        precondition(way == .upsert && upsertsLeft > 0, "a part came another way")
        upsertsLeft -= 1
        if upsertsLeft == 0 { way = .replace }
    }
}
