import Glibc
import Lifecycle
import Primitives
import Reactor
import Testing

@Suite struct ServiceNotifierTests {
    /// The supervisor's end.
    private func supervisor() -> (descriptor: CInt, name: String) {
        let name = "@godwit-notify-\(getpid())-\(UInt64.random(in: 0 ... .max))"
        let descriptor = socket(AF_UNIX, CInt(SOCK_DGRAM.rawValue | SOCK_CLOEXEC.rawValue), 0)
        let status = SocketAddress.unix(path: name).withSockaddr { bind(descriptor, $0, $1) }
        precondition(status == 0, "bind: \(errno)")
        return (descriptor, name)
    }

    private func read(_ descriptor: CInt) -> String {
        var buffer = [UInt8](repeating: 0, count: 4096)
        let count = recv(descriptor, &buffer, buffer.count, 0)
        return String(decoding: buffer.prefix(max(0, count)), as: UTF8.self)
    }

    @Test func `each state is a datagram in the words of sd_notify`() {
        let (descriptor, name) = supervisor()
        defer { close(descriptor) }
        let notifier = ServiceNotifier(environment: ["NOTIFY_SOCKET": name])
        notifier.tell(.ready, .status("two\nlines"))
        #expect(read(descriptor) == "READY=1\nSTATUS=two lines")
        notifier.tell(.reloading(MonotonicInstant(nanoseconds: 5_000_000_123)))
        #expect(read(descriptor) == "RELOADING=1\nMONOTONIC_USEC=5000000")
        notifier.tell(.stopping)
        #expect(read(descriptor) == "STOPPING=1")
        notifier.tell(.watchdog)
        #expect(read(descriptor) == "WATCHDOG=1")
        notifier.tell(.mainProcess(4711))
        #expect(read(descriptor) == "MAINPID=4711")
        notifier.tell(.status(String(repeating: "x", count: 9000)))
        #expect(read(descriptor).utf8.count == 507)
    }

    @Test func `nobody who listens is nothing bad`() {
        for environment in [[:], ["NOTIFY_SOCKET": ""], ["NOTIFY_SOCKET": "vsock:2:1"], ["NOTIFY_SOCKET": "@nobody"]] {
            ServiceNotifier(environment: environment).tell(.ready)
        }
    }

    @Test func `the watchdog's time is for the process that it names`() {
        let base = ["NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "2000000"]
        #expect(ServiceNotifier(environment: base).watchdogSeconds == 2)
        #expect(ServiceNotifier(environment: base.merging(["WATCHDOG_PID": "7"]) { $1 }, process: 7).watchdogSeconds == 2)
        #expect(ServiceNotifier(environment: base.merging(["WATCHDOG_PID": "8"]) { $1 }, process: 7).watchdogSeconds == nil)
        #expect(ServiceNotifier(environment: ["WATCHDOG_USEC": "2000000"]).watchdogSeconds == nil)
        #expect(ServiceNotifier(environment: ["NOTIFY_SOCKET": "@nobody"]).watchdogSeconds == nil)
    }
}
