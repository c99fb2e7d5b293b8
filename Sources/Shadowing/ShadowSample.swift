import Primitives
import SQLAnalysis

/// One read that a client has sent, with all that its answer depends on. Immutable, any thread.
package struct ShadowSample: Sendable {
    package struct Parameter: Sendable, Equatable {
        /// nil: NULL.
        package var bytes: [UInt8]?
        package var isBinary: Bool

        package init(bytes: [UInt8]?, isBinary: Bool) {
            self.bytes = bytes
            self.isBinary = isBinary
        }
    }

    /// Larger ones are not taken.
    package static let bytesMax = 256 * 1024
    /// What the values of a protocol message may be at most (PROTOCOL-MESSAGE-FORMATS-BIND).
    package static let parametersMax = 65_535

    /// The reactor that took it.
    package var worker: Int
    /// Whom the client is logged in as.
    package var user: String
    /// What makes a new session like the client's: statements with semicolons between them; empty: nothing is to do.
    package var settings: String
    package var text: [UInt8]
    /// Of the parameters, as numbered in pg_type; 0, or not there: the server finds it out.
    package var types: [UInt32]
    package var parameters: [Parameter]
    package var statement: AnalysedStatement

    package init(
        worker: Int, user: String, settings: String, text: [UInt8], types: [UInt32] = [], parameters: [Parameter] = [],
        statement: AnalysedStatement
    ) {
        self.worker = worker
        self.user = user
        self.settings = settings
        self.text = text
        self.types = types
        self.parameters = parameters
        self.statement = statement
    }

    /// What it takes of memory, about.
    package var byteCount: Int {
        parameters.reduce(256 + text.count + settings.utf8.count) { $0 + 16 + ($1.bytes?.count ?? 0) }
    }

    /// The same with types that both sides know by one number; nil: a value's form depends on another one.
    package var portable: ShadowSample? {
        var sample = self
        for index in types.indices where types[index] >= ObjectNumber.userMin {
            if index < parameters.count && parameters[index].isBinary { return nil }
            sample.types[index] = 0
        }
        return sample
    }
}
