import Foundation
import LibPQ
import Mirroring
import Primitives
import TestSupport
import Testing

@Suite(.serialized) struct MirrorTests {
    @Test func `rows that were there and rows that come are on NEW`() throws {
        let harness = try MirrorHarness(schema: """
            CREATE TABLE people (id bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY, name text, twice bigint
                GENERATED ALWAYS AS (id * 2) STORED);
            CREATE TABLE words (word text, lang text, at timestamptz, PRIMARY KEY (word, lang));
            """)
        let old = try harness.connectOld()
        try old.execute("""
            INSERT INTO public.people (name) SELECT 'n' || g FROM generate_series(1, 2500) g;
            INSERT INTO public.words SELECT 'w' || g, 'en', now() FROM generate_series(1, 1000) g;
            """)
        try harness.prepare()
        harness.start(MirrorOptions(pollMillis: 20, backfillRows: 300))
        try harness.waitUntilReadable()
        #expect(try harness.differences() == [])
        try old.execute("""
            INSERT INTO public.people (name) VALUES ('it''s \\ "new"'), (NULL);
            UPDATE public.people SET name = 'changed' WHERE id % 10 = 0;
            DELETE FROM public.people WHERE id % 7 = 0;
            UPDATE public.words SET word = word || 'x' WHERE word LIKE 'w1%';
            """)
        try harness.settle()
        #expect(try harness.differences() == [])
        #expect(harness.horizon.report.state == .mirroring)
    }

    @Test func `hostile writers, a backfill and a NEW killed by signal 9 leave both sides equal`() throws {
        let given = ProcessInfo.processInfo.environment["GODWIT_TEST_SEED"].flatMap { UInt64($0) }
        let seed = given ?? UInt64.random(in: 0...UInt64(UInt32.max))
        print("seed \(seed) (GODWIT_TEST_SEED)")
        let harness = try MirrorHarness(schema: HostileWriter.schema, ownServers: true)
        let old = try harness.connectOld()
        try old.execute("SET search_path = public; \(HostileWriter.fill)")
        try harness.prepare()
        var options = MirrorOptions(pollMillis: 5, backfillRows: 40)
        options.smallBatchKeysMax = 150
        harness.start(options)
        for round in 0..<3 {
            let writers = HostileWriter.start(
                seed: seed &+ UInt64(round), transactions: 120, harness.pair.oldConninfo)
            if round == 1 {
                let batches = harness.horizon.report.batches
                try harness.wait(for: "batches under load") { $0.batches > batches + 3 }
                harness.pair.new.kill9()
                try harness.wait(for: "the loss to be noticed") { $0.state == .waiting }
                try harness.pair.new.start()
            }
            for writer in writers { writer.join() }
            try harness.waitUntilReadable()
            try harness.settle()
            #expect(try harness.differences() == [], "seed \(seed), round \(round)")
        }
        #expect(harness.horizon.report.state == .mirroring)
    }
}
