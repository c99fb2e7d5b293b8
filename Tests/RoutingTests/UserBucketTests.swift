import Configuration
import Primitives
import SQLAnalysis
import Testing

@testable import Routing

@Suite struct UserBucketTests {
    /// By Python: h = int(md5(key), 16); h % 100, h // 100 % 100.
    @Test(arguments: [("42", "74.51"), ("43", "55.65"), ("99", "75.00"), ("bob", "32.26")])
    func `a bucket is md5 mod 100 with hundredths`(key: String, text: String) {
        #expect(UserBucket(key: Array(key.utf8)).description == text)
    }

    @Test(arguments: [0, 1, 999, 1000, 2500, 5000, 9999, 10_000])
    func `the share of users on NEW is the percentage within sampling error`(hundredths: Int) {
        let users = 100_000
        let within = (0..<users).count { UserBucket(key: Array("user-\($0)".utf8)).isWithin(share: hundredths) }
        let share = Double(hundredths) / 10_000
        let deviation = (share * (1 - share) * Double(users)).squareRoot()
        #expect(abs(Double(within) - share * Double(users)) <= 4 * deviation)
    }

    @Test func `raising the percentage never moves a user back`() {
        for user in 0..<2000 {
            let bucket = UserBucket(key: Array("\(user)".utf8))
            var wasWithin = false
            for share in stride(from: 0, through: 10_000, by: 50) {
                let isWithin = bucket.isWithin(share: share)
                #expect(isWithin || !wasWithin)
                wasWithin = isWithin
            }
            #expect(wasWithin)
        }
    }

    @Test func `the resolver says what the bucket says, warm or cold`() {
        let table = RoutingTable(keyPlan: KeyPlan([.sessionUser]), hundredths: 0)
        let resolver = KeyResolver(table: table)
        for _ in 0..<2 {
            for user in 0..<20_000 {
                let key = Array("user-\(user)".utf8)
                #expect(resolver.identity(of: key)?.bucket == UserBucket(key: key))
            }
        }
        let long = [UInt8](repeating: 65, count: KeyResolver.keyBytesMax + 1)
        #expect(resolver.identity(of: long)?.bucket == UserBucket(key: long))
        #expect(resolver.identity(of: []) == nil)
    }
}
