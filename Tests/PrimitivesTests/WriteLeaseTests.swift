import Primitives
import Testing

@Suite struct WriteLeaseTests {
    @Test func `it runs out some time after the question, and never where nobody else is`() {
        let lease = WriteLease()
        let asked = MonotonicInstant(nanoseconds: 5_000_000_000)
        #expect(!lease.hasRunOut(at: asked.advanced(bySeconds: 1000), epoch: 0))
        lease.renew(at: asked, forSeconds: 3, epoch: 0)
        #expect(!lease.hasRunOut(at: asked.advanced(bySeconds: 3), epoch: 0))
        #expect(lease.hasRunOut(at: asked.advanced(bySeconds: 3.1), epoch: 0))
        lease.giveUp()
        #expect(!lease.hasRunOut(at: asked.advanced(bySeconds: 1000), epoch: 0))
    }

    @Test func `it is none for who has not heard of the switch that it is for`() {
        let lease = WriteLease()
        let asked = MonotonicInstant(nanoseconds: 5_000_000_000)
        lease.renew(at: asked, forSeconds: 3, epoch: 7)
        #expect(lease.hasRunOut(at: asked, epoch: 6))
        #expect(!lease.hasRunOut(at: asked, epoch: 7))
        #expect(!lease.hasRunOut(at: asked, epoch: 8))
    }

    @Test func `a database has one lease, whoever asks for it`() {
        let leases = WriteLeases()
        #expect(leases.of("shop") === leases.of("shop"))
        #expect(leases.of("shop") !== leases.of("other"))
    }
}
