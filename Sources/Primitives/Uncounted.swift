/// Gives `body` an object without counting a reference to it, which would take two locked instructions: so goes what is
/// asked for every unit, from whoever holds it to whoever uses it.
///
/// unsafe: somebody else has to hold it for as long as `body` runs; who that is, is said where this is used.
/// Connections that were closed meanwhile are held until the batch of events ends (`Worker.keepUntilBatchEnds`).
///
/// - Parameter object: where it is held, and no local constant, which would be counted until the end of its scope.
@inlinable @inline(__always) @discardableResult
package func withUncounted<Object: AnyObject, Outcome>(
    _ object: @autoclosure () -> Object, _ body: (Object) -> Outcome
) -> Outcome {
    Unmanaged.passUnretained(object())._withUnsafeGuaranteedRef(body)
}

/// The same of what may not be there.
@inlinable @inline(__always) @discardableResult
package func withUncounted<Object: AnyObject, Outcome>(
    _ object: @autoclosure () -> Object?, _ body: (Object) -> Outcome
) -> Outcome? {
    object().map { Unmanaged.passUnretained($0) }?._withUnsafeGuaranteedRef(body)
}
