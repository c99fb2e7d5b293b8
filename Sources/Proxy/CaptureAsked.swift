import Capture
import Console

/// What is asked about captures from elsewhere than a console. Immutable, any thread.
package enum CaptureAsked: Sendable {
    case list
    case command(database: String, CaptureCommand)
}

/// Why a capture does not begin, or is not there to be stopped. Immutable, any thread.
package struct CaptureRefusal: Error, Equatable, Sendable {
    package enum Kind: Sendable {
        /// No such database, or no capture of it.
        case unknown
        /// A name that cannot be one.
        case unusable
        /// It stands against what is there.
        case conflict
        case ending
    }

    package var kind: Kind
    package var words: String

    package init(_ kind: Kind, _ words: String) {
        self.kind = kind
        self.words = words
    }
}

package typealias CaptureReply = Result<[CaptureSession], CaptureRefusal>
