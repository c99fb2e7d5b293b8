import Testing

@testable import Verification

@Suite struct BisectionTests {
    @Test func `equal parts are left alone, differing ones narrowed until few rows are left`() {
        var bisection = Bisection()
        let all = KeySlice()
        let equal = RangeDigest(rows: 5000, first: "1", second: "2")
        bisection.record([all], more: 0, old: [0: RangeDigest(rows: 10_000, first: "1", second: "1")],
            new: [0: RangeDigest(rows: 9_999, first: "0", second: "1")])
        let whole = all.part(bucket: 0, more: 0)
        #expect(bisection.next() == .split([whole], more: 4))
        bisection.record([whole], more: 4, old: [3: equal, 7: RangeDigest(rows: 600, first: "5", second: "5")],
            new: [3: equal, 7: RangeDigest(rows: 600, first: "5", second: "6")])
        #expect(bisection.next() == .compareRows([whole.part(bucket: 7, more: 4)]))
        #expect(bisection.next() == nil)
    }

    @Test func `a part that only one side has differs`() {
        var bisection = Bisection()
        bisection.record([KeySlice()], more: 1, old: [:], new: [1: RangeDigest(rows: 1, first: "0", second: "0")])
        #expect(bisection.next() == .compareRows([KeySlice().part(bucket: 1, more: 1)]))
    }

    @Test func `what differs is asked for together, as far as rows are fetched at once`() {
        var bisection = Bisection()
        func digests(_ buckets: Range<UInt64>, rows: Int64) -> [UInt64: RangeDigest] {
            Dictionary(uniqueKeysWithValues: buckets.map { ($0, RangeDigest(rows: rows, first: "1", second: "1")) })
        }
        bisection.record([KeySlice()], more: 4, old: digests(0..<16, rows: 5000), new: [:])
        let parts = (0..<16).map { KeySlice().part(bucket: $0, more: 4) }
        #expect(bisection.next() == .split(parts, more: 4))
        #expect(bisection.record(parts, more: 4, old: digests(0..<256, rows: 312), new: [:]) == 256 * 312)
        var counts: [Int] = []
        while case .compareRows(let slices)? = bisection.next() { counts.append(slices.count) }
        #expect(counts == [64, 64, 64, 64])
    }

    @Test(arguments: [(Bisection.rowsMax, true), (Bisection.rowsMax + 1, false)])
    func `rows are compared one by one up to the bound`(rows: Int64, isCompared: Bool) {
        var bisection = Bisection()
        bisection.add(KeySlice(), rows: rows)
        #expect(bisection.next() == (isCompared ? .compareRows([KeySlice()]) : .split([KeySlice()], more: 4)))
    }

    @Test func `a bucket outside of its slice is a bug`() async {
        await #expect(processExitsWith: .failure) {
            _ = KeySlice().part(bucket: 1, more: 1).part(bucket: 2, more: 1)
        }
    }
}
