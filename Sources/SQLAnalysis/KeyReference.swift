/// Where a database's routing keys come from, in the order of the configuration. Immutable, any thread.
package struct KeyPlan: Sendable, Equatable {
    package enum Source: Sendable, Equatable {
        /// A comment in the text; the name is compared byte for byte.
        case comment(String)
        /// A column compared with, or inserted from, a literal or parameter; lower case.
        case column(String)
        /// A setting or startup option: known to the session, not to the text.
        case setting(String)
        /// The name the client logged in with: known to the session.
        case sessionUser
        /// What the session calls itself at the moment.
        case applicationName
        /// The host that the client connected from.
        case clientAddress
    }

    package var sources: [Source]

    package init(_ sources: [Source]) {
        precondition(sources.count <= KeyPlan.sourcesMax, "more key sources than the settings allow")
        self.sources = sources
    }

    package static let sourcesMax = 16
}

/// The routing key that a text carries: the first source of the plan that the text itself answers. A value, any thread.
///
/// Offsets refer to the very bytes that were analysed; copy the key out before they are gone.
package struct KeyReference: Sendable, Equatable {
    package enum Form: Sendable, Equatable {
        /// The bytes as they stand.
        case text(offset: Int, length: Int)
        /// sqlcommenter's value: percent-decoding is to be done (`KeyReference.bytes(in:)` does).
        case urlEncoded(offset: Int, length: Int)
        /// A literal with its quotes, whose bytes are not the key yet (`KeyReference.bytes(in:)` makes them so).
        case literal(offset: Int, length: Int)
        /// `$number`, from 1: the value is in the Bind message.
        case parameter(Int)
        /// These parameters, if all of them have one value: the rows of one INSERT.
        case parameters([Int])
    }

    /// Index in `KeyPlan.sources`: a setting that stands before it wins over it.
    package var source: Int
    package var form: Form

    package init(source: Int, form: Form) {
        self.source = source
        self.form = form
    }

    /// The key's bytes; nil for a parameter. Allocates: for what is kept, not for each query.
    package func bytes(in text: UnsafeRawBufferPointer) -> [UInt8]? {
        switch form {
        case .text(let offset, let length): Array(text[offset..<offset + length])
        case .urlEncoded(let offset, let length): KeyExtractor.percentDecoded(text[offset..<offset + length])
        case .literal(let offset, let length): RoutingKeyText.literal(text[offset..<offset + length])
        case .parameter, .parameters: nil
        }
    }
}
