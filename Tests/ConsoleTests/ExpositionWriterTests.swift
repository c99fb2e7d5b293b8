import Console
import Testing

@Suite struct ExpositionWriterTests {
    private func text(_ write: (inout ExpositionWriter) -> Void) -> String {
        var writer = ExpositionWriter()
        write(&writer)
        return String(decoding: writer.bytes, as: UTF8.self)
    }

    @Test func `a family is its help, its type and its samples`() {
        let text = text {
            $0.begin("a_total", .counter, "Things.")
            $0.sample([("x", "1"), ("y", "")], UInt64(18_446_744_073_709_551_615))
            $0.begin("b", .gauge, "More.")
            $0.sample([], 0.5)
        }
        #expect(
            text == """
                # HELP a_total Things.
                # TYPE a_total counter
                a_total{x="1",y=""} 18446744073709551615
                # HELP b More.
                # TYPE b gauge
                b 0.5

                """)
    }

    @Test func `label values and help are escaped`() {
        let text = text {
            $0.begin("a", .gauge, "back\\slash \"and\"\nline")
            $0.sample([("x", "q\"b\\l\nü")], UInt64(1))
        }
        #expect(text == "# HELP a back\\\\slash \"and\"\\nline\n# TYPE a gauge\na{x=\"q\\\"b\\\\l\\nü\"} 1\n")
    }

    @Test func `buckets of a histogram add up`() {
        let text = text {
            $0.begin("h_seconds", .histogram, "Times.")
            $0.histogram([("k", "v")], counts: [1, 0, 2], bounds: [0.1, 1], sum: 7.5)
        }
        #expect(
            text.hasSuffix("""
                h_seconds_bucket{k="v",le="0.1"} 1
                h_seconds_bucket{k="v",le="1.0"} 1
                h_seconds_bucket{k="v",le="+Inf"} 3
                h_seconds_sum{k="v"} 7.5
                h_seconds_count{k="v"} 3

                """))
    }

    @Test func `numbers that are none have names`() {
        let text = text {
            $0.begin("a", .gauge, "x")
            for value in [Double.nan, .infinity, -.infinity] { $0.sample([], value) }
        }
        #expect(text.hasSuffix("a NaN\na +Inf\na -Inf\n"))
    }

    @Test func `a family that is begun twice is a bug`() async {
        await #expect(processExitsWith: .failure) {
            var writer = ExpositionWriter()
            writer.begin("a", .gauge, "x")
            writer.begin("a", .gauge, "x")
        }
    }
}
