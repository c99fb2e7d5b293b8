import Foundation

/// What a body of JSON asks for. No state, any thread.
enum JSONWish {
    private struct Names: Decodable {
        private struct Name: CodingKey {
            var stringValue: String
            var intValue: Int? { nil }

            init(stringValue: String) { self.stringValue = stringValue }
            init?(intValue: Int) { nil }
        }

        var all: [String]

        init(from decoder: any Decoder) throws {
            all = try decoder.container(keyedBy: Name.self).allKeys.map(\.stringValue)
        }
    }

    /// - Parameter members: all that the object may have.
    /// - Returns: nil when the body is no such object, or has more: who writes `redacted` for `redact` is not to get
    ///   the contrary of what he wants.
    static func read<Wish: Decodable>(_: Wish.Type, of body: String, members: Set<String>) -> Wish? {
        let data = Data(body.utf8)
        guard let names = try? JSONDecoder().decode(Names.self, from: data), members.isSuperset(of: names.all) else {
            return nil
        }
        return try? JSONDecoder().decode(Wish.self, from: data)
    }
}
