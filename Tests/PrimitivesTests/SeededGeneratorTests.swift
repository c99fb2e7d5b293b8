import Primitives
import Testing

@Suite struct SeededGeneratorTests {
    /// The first numbers of SplitMix64 as its authors' C code gives them.
    @Test(
        arguments: [
            (0, [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4, 0x06C4_5D18_8009_454F]),
            (1_234_567, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]),
        ] as [(UInt64, [UInt64])])
    func `the generator gives the published numbers`(seed: UInt64, numbers: [UInt64]) {
        var random = SeededGenerator(seed: seed)
        for number in numbers { #expect(random.next() == number) }
    }

    @Test func `equal seeds give equal numbers and others do not`() {
        var first = SeededGenerator(seed: 42)
        var second = SeededGenerator(seed: 42)
        var third = SeededGenerator(seed: 43)
        let numbers = (0..<100).map { _ in first.next() }
        #expect(numbers == (0..<100).map { _ in second.next() })
        #expect(Set(numbers).isDisjoint(with: (0..<100).map { _ in third.next() }))
    }
}
