import LibPQ
import Primitives
import TestSupport
import Testing

@testable import Mirroring

@Suite(.serialized) struct HandoverTests {
    @Test func `whoever slept through a switch hands nothing over to the side that has the writes now`() throws {
        let harness = try MirrorHarness(schema: "CREATE TABLE item (id int PRIMARY KEY)")
        try harness.prepare()
        for source in [Side.old, .new] {
            let session = try SwitchSession.open(
                MirrorDirection(from: source), old: harness.pair.oldConninfo, new: harness.pair.newConninfo)
            let deadline = Deadline.now().adding(seconds: 60)
            try session.reserve()
            try session.fence(until: deadline)
            try session.claim(owner: "test", until: deadline)
            try session.handOver()
        }
        // It has read, before the second switch, that NEW has the writes.
        let old = try harness.connectOld(), new = try harness.connectNew()
        try Handover.perform(authority: new, .new, fenced: old, .old)
        #expect(try old.query("SELECT count(*) FROM godwit.progress").integer(0, 0) == 0)
        #expect(try new.query("SELECT count(*) FROM godwit.progress").integer(0, 0) == 1)
    }
}
