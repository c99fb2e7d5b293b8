/// A pg_snapshot of the source: which transactions' effects it shows. Immutable, any thread.
package struct LedgerSnapshot: Sendable, Equatable {
    /// As the source wrote it; equal texts are equal snapshots.
    package let text: String
    package let xmin: UInt64
    package let xmax: UInt64
    /// Transactions between xmin and xmax that were still open.
    package let open: [UInt64]

    /// - Returns: nil when this is not "xmin:xmax:list".
    package init?(_ text: String) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false)
        guard parts.count == 3, let xmin = UInt64(parts[0]), let xmax = UInt64(parts[1]), xmin <= xmax else {
            return nil
        }
        var open: [UInt64] = []
        for part in parts[2].split(separator: ",") {
            guard let xid = UInt64(part) else { return nil }
            open.append(xid)
        }
        self.text = text
        self.xmin = xmin
        self.xmax = xmax
        self.open = open
    }

    /// SQL that is true for the rows of transactions which this snapshot does not show. Exact, and an index
    /// on `xid` serves it: what was open then, and what came later. (pg_visible_in_snapshot would read
    /// everything since xmin.)
    package var unseenPredicate: String {
        let later = "xid >= '\(xmax)'::xid8"
        guard !open.isEmpty else { return later }
        return "(\(later) OR xid IN (\(open.map { "'\($0)'::xid8" }.joined(separator: ","))))"
    }

    /// True when every transaction that the other one shows is shown by this one as well. Both are of one server.
    package func showsAll(of other: LedgerSnapshot) -> Bool {
        let theirs = Set(other.open)
        // What had not begun for us and was over for them, if only one: between the two ends all must be open there.
        if xmax < other.xmax {
            guard other.xmax - xmax <= UInt64(theirs.count), (xmax..<other.xmax).allSatisfy(theirs.contains) else {
                return false
            }
        }
        return open.allSatisfy { $0 >= other.xmax || theirs.contains($0) }
    }
}
