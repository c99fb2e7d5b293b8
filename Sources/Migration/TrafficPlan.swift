/// Which share of its users reads on NEW, per database: what the file says, until an operator says otherwise.
/// Pure; owned by the control thread.
package struct TrafficPlan: Sendable {
    /// Hundredths of a percent, 0...10000.
    private var ordered: [String: Int] = [:]

    package init() {}

    /// An operator's word; it holds until the file is read again.
    package mutating func order(_ hundredths: Int, for database: String) {
        precondition((0...10_000).contains(hundredths), "a share outside 0...100 percent")
        ordered[database] = hundredths
    }

    /// The file was read again and taken: it has the last word.
    package mutating func fileWasRead() { ordered = [:] }

    package func share(of database: String, inFile hundredths: Int) -> Int { ordered[database] ?? hundredths }
}
