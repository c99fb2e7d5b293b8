import Primitives
import SQLAnalysis
import Testing

@testable import Shadowing

@Suite struct ShadowBookTests {
    private func sample(_ number: Int = 1, bytes: Int = 10) -> ShadowSample {
        let statement = AnalysedStatement(
            Classification(.read, .surelyRead), shape: ShapeID(UInt64(number)), shapeText: "SELECT \(number)")
        return ShadowSample(
            worker: 0, user: "u", settings: "", text: Array(repeating: 0x20, count: bytes), statement: statement)
    }

    @Test func `what there is no room for is dropped and counted`() {
        let book = ShadowBook(database: "d")
        for _ in 0..<ShadowBook.waitingMax { book.offer(sample()) }
        #expect(book.figures.waiting == ShadowBook.waitingMax && book.figures.dropped == 0)
        book.offer(sample())
        #expect(book.figures.waiting == ShadowBook.waitingMax && book.figures.dropped == 1)
        #expect(book.figures.counts.sampled == UInt64(ShadowBook.waitingMax) + 1)
        let taken = book.take()
        #expect(taken.count == ShadowBook.waitingMax && book.figures.waiting == 0)
        // Given back, they stand before what has come since; there may be less room than before.
        book.offer(sample(2))
        book.giveBack(taken[...])
        #expect(book.figures.waiting == ShadowBook.waitingMax && book.figures.dropped == 2)
        #expect(book.take().last?.statement.shape == ShapeID(2))
    }

    @Test func `bytes that wait are bounded, too`() {
        let book = ShadowBook(database: "d")
        let size = sample(bytes: 1 << 20).byteCount
        let room = ShadowBook.waitingBytesMax / size
        for _ in 0..<room + 1 { book.offer(sample(bytes: 1 << 20)) }
        #expect(book.figures.waiting == room && book.figures.dropped == 1)
    }

    @Test func `a shape is outstanding until something is known of it`() {
        let book = ShadowBook(database: "d")
        for number in 1...4 { book.offer(sample(number)) }
        #expect(book.figures.shapesOutstanding == 4)
        let now = MonotonicInstant(nanoseconds: 1)
        #expect(!book.note(.equal, of: sample(1), at: now))
        _ = book.note(.failed(isAuthority: false, "it is down"), of: sample(2), at: now)
        _ = book.note(.skipped("it sleeps"), of: sample(3), at: now)
        #expect(book.figures.shapesOutstanding == 2 && book.figures.lastFailure == "it is down")
        let difference = Difference(.rows, ShadowAnswer(rowsMax: 1, bytesMax: 1), ShadowAnswer(rowsMax: 1, bytesMax: 1))
        #expect(book.note(.mismatch(difference), of: sample(4), at: now))
        #expect(!book.note(.mismatch(difference), of: sample(4), at: now), "only the first of a shape is news")
        let figures = book.figures
        #expect(figures.counts.compared == 3 && figures.counts.mismatches == 2 && figures.shapes.first?.text == "SELECT 4")
        book.begin()
        #expect(book.figures.shapes.isEmpty && book.figures.counts == ShadowBook.Counts())
    }

    @Test func `shapes beyond their number are counted together`() {
        let book = ShadowBook(database: "d")
        for number in 0..<ShadowBook.shapesMax { book.offer(sample(number)) }
        #expect(book.figures.shapes.count == ShadowBook.shapesMax && book.figures.shapesOmitted == 0)
        book.offer(sample(ShadowBook.shapesMax))
        #expect(book.figures.shapes.count == ShadowBook.shapesMax && book.figures.shapesOmitted == 1)
    }

    @Test func `a type that each side numbers itself is found out by the server`() {
        var read = sample()
        read.types = [23, 16_400]
        read.parameters = [.init(bytes: [1], isBinary: true), .init(bytes: [0x61], isBinary: false)]
        #expect(read.portable?.types == [23, 0])
        read.parameters[1].isBinary = true
        #expect(read.portable == nil)
    }
}
