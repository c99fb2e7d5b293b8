import FuzzTargets
import Glibc

/// The target that GODWIT_FUZZ_TARGET names; libFuzzer's main calls this with one input after the other.
private let target: FuzzTarget = {
    let name = getenv("GODWIT_FUZZ_TARGET").map { String(cString: $0) } ?? ""
    if let target = FuzzTarget(rawValue: name) { return target }
    let names = FuzzTarget.allCases.map(\.rawValue).joined(separator: " ")
    let line = Array("GODWIT_FUZZ_TARGET must be one of: \(names)\n".utf8)
    _ = write(STDERR_FILENO, line, line.count)
    exit(2)
}()

@_cdecl("LLVMFuzzerTestOneInput")
package func testOneInput(_ start: UnsafePointer<UInt8>?, _ count: Int) -> CInt {
    target.run(Array(UnsafeBufferPointer(start: start, count: count)))
    return 0
}
