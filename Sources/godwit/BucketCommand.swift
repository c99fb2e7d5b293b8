import ArgumentParser
import Routing

/// `godwit bucket KEY…`
struct BucketCommand: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "bucket",
        abstract: "Print where routing keys stand between 0.00 and 99.99.",
        discussion: """
            A user's reads go to NEW when the bucket is below the percentage of the configuration. With one key the \
            line is the bucket; with several, each line is the key, a tab and its bucket. The bucket of a key is \
            md5(key) mod 100 with (md5(key) div 100) mod 100 as hundredths; it never changes.
            """)

    @Argument(help: "Routing keys, as they appear in comments or settings.")
    var keys: [String]

    func validate() throws {
        if keys.isEmpty { throw ValidationError("at least one key is expected") }
    }

    func run() {
        for key in keys {
            let bucket = UserBucket(key: Array(key.utf8))
            print(keys.count == 1 ? "\(bucket)" : "\(key)\t\(bucket)")
        }
    }
}
