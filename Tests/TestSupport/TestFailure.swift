/// Why a helper of the tests could not do its work: a sentence with all that is needed to look into it.
package struct TestFailure: Error, CustomStringConvertible {
    package let description: String

    package init(_ description: String) { self.description = description }
}
