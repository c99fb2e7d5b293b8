import Primitives
import Testing

@Suite struct ExactNameTests {
    private static let composed = "caf\u{E9}"
    private static let decomposed = "cafe\u{301}"

    @Test func `names that only look alike are two`() {
        #expect(Self.composed == Self.decomposed, "Swift's own idea")
        #expect(ExactName(Self.composed) != ExactName(Self.decomposed))
        #expect(!Self.composed.hasSameBytes(as: Self.decomposed))
        #expect(Set([ExactName(Self.composed), ExactName(Self.decomposed), ExactName(Self.composed)]).count == 2)
    }

    @Test func `a table keeps a value for each`() {
        var table: NameTable<Int> = ["a": 1]
        table[Self.composed] = 2
        #expect(table[Self.decomposed] == nil)
        table[Self.decomposed] = 3
        #expect(table.count == 3 && table[Self.composed] == 2)
        table[Self.composed] = nil
        #expect(table.names.sorted() == ["a", Self.decomposed])
        #expect(table.mapValues { $0 + 1 }[Self.decomposed] == 4)
    }
}
