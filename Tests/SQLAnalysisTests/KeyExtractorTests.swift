import Testing

@testable import SQLAnalysis

@Suite struct KeyExtractorTests {
    private func key(_ text: String, _ plan: KeyPlan = KeyPlan([.comment("user_id")])) -> String? {
        let bytes = Array(text.utf8)
        guard let reference = analysed(text, plan: plan).key else { return nil }
        if case .parameter(let number) = reference.form { return "$\(number)" }
        if case .parameters(let numbers) = reference.form { return numbers.map { "$\($0)" }.joined(separator: "=") }
        return bytes.withUnsafeBytes { reference.bytes(in: $0) }.map { String(decoding: $0, as: UTF8.self) }
    }

    @Test(arguments: [
        ("/* user_id=42 */ select 1", "42"), ("select 1 /* user_id=42 */", "42"), ("/*user_id=42*/ select 1", "42"),
        ("/* a=1, user_id = 42 , b=2 */ select 1", "42"), ("/*a='x',user_id='42',traceparent='00-1-2-01'*/ select 1", "42"),
        ("/*user_id='a%20b'*/ select 1", "a b"), ("/*user_id='%C3%A4'*/ select 1", "ä"), ("/*user_id='a\\'b'*/ select 1", "a'b"),
        ("/* x */ /* user_id=7 */ select 1 /* user_id=8 */", "7"), ("/* user_id=42 */ insert into t values (1)", "42"),
        ("/* user_id=42 */ selct", "42"), ("/* user_id=a-b_c@d.e */ select 1", "a-b_c@d.e"),
        ("/* user_id=42 */ begin", "42"), ("/*user_id='%zz'*/ select 1", "%zz"),
    ])
    func `a key is found in comments`(text: String, expected: String) {
        #expect(key(text) == expected)
    }

    @Test(arguments: [
        "select 1", "select '/* user_id=42 */'", "select $$/* user_id=42 */$$", "select \"/* user_id=42 */\"",
        "-- user_id=42\nselect 1", "/* user_id= */ select 1", "/* user_id */ select 1", "/* my_user_id=42 */ select 1",
        "/* user_idx=42 */ select 1", "/* user_id='' */ select 1", "/* USER_ID=42 */ select 1",
        "/*a='user_id=42'*/ select 1", "/* user_id='42 */ select 1", "/**/ select 1", "/* user_id=*/ select 1",
    ])
    func `what only looks like a key is none`(text: String) {
        #expect(key(text) == nil)
    }

    private let columns = KeyPlan([.comment("user_id"), .column("user_id")])

    @Test(arguments: [
        ("select * from t where user_id = 42", "42"), ("select * from t where 42 = t.user_id and a = 1", "42"),
        ("select * from t where a = 1 and user_id = $3", "$3"), ("update t set a = 1 where user_id = 'x'", "x"),
        ("delete from t where user_id = -5", "-5"), ("insert into t (a, user_id) values (1, 42)", "42"),
        ("insert into t (user_id) values ($1)", "$1"), ("select * from t where user_id = $1::int", "$1"),
        ("select * from t where user_id = 'it''s'", "it's"), ("select * from t where user_id = $$x$$", "x"),
        ("select * from t where user_id = E'x'", "x"), ("select * from t where user_id =  E'a\\\\b''c'", "a\\b'c"),
        ("select * from t where user_id = 007", "7"),
        ("select * from t where user_id = - 5", "-5"), ("select * from t where user_id = 12345678901", "12345678901"),
        ("select * from t where user_id = '007'", "007"), ("select * from t where user_id in (42)", "42"),
        ("select * from t where user_id in ('x')", "x"), ("select * from t where user_id in ($2)", "$2"),
        ("select * from t join u using (user_id) where u.user_id = 5", "5"),
        ("select * from t join u on t.a = u.a and u.user_id = $1 where t.b = 2", "$1"),
        ("insert into t (a, user_id) values (1, 42), (2, 42), (3, '42')", "42"),
        ("insert into t (user_id) values ($1), ($2)", "$1=$2"),
        ("select * from t where user_id = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("select * from t where user_id = '{a0eebc999c0b4ef8bb6d6bb9bd380a11}'::uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("with w as (update t set a = 1 where user_id = 7 returning a) select a from w", "7"),
        ("with w as (insert into t (user_id) values ($2) returning a) select a from w where user_id = $2", "$2"),
        ("with w as (delete from t where user_id = 7 returning a) insert into u select a from w", "7"),
        ("/* user_id=7 */ select * from t where user_id = 42", "7"), ("select * from t where a in (1,2,3) and user_id = 9", "9"),
    ])
    func `a key is found by its column`(text: String, expected: String) {
        #expect(key(text, columns) == expected)
    }

    /// Beyond what is looked at the user is not found, and yet his rows are changed.
    static let hidden: [(String, Bool)] = [
        ("insert into t (user_id) values " + Array(repeating: "(7)", count: 64).joined(separator: ", "), false),
        ("insert into t (user_id) values " + Array(repeating: "(7)", count: 65).joined(separator: ", "), true),
        ("insert into t (a) values " + Array(repeating: "(7)", count: 65).joined(separator: ", "), false),
        ("update t set " + (1...63).map { "c\($0) = 1" }.joined(separator: ", ") + " where user_id = 7", false),
        ("update t set " + (1...64).map { "c\($0) = 1" }.joined(separator: ", ") + " where user_id = 7", true),
        ("select " + (1...64).map { "\($0)" }.joined(separator: ", ") + " from t where user_id = 7", false),
        ("update t set a = 1 where user_id = 7", false), ("update t set a = 1", false),
        ("update t set a = 1 where user_id = $1", false),
        ("with w as (update t set a = 1 where user_id = 7 returning a) select a from w", false),
        ("with w as (update t set a = 1 where user_id = 7) update t set a = 1 where user_id = 8", true),
        ("with w as (select 1 from t where user_id = 7) select 1 from w where user_id = 8", false),
        ("update t set a = 1 where user_id = 7; update t set b = 1 where user_id = 7", true),
        ("insert into t (user_id, a) values (7, '\(String(repeating: "x", count: 64 << 10))')", true),
        ("select * from t where a in (1\(String(repeating: ", 1", count: 32 << 10)))", false),
        ("merge into t using u on t.a = u.a when matched then update set b = 1 returning nothing at all", true),
    ]

    @Test(arguments: hidden) func `a write whose columns hide their user is told`(text: String, isHidden: Bool) {
        #expect(analysed(text, plan: columns).statement.hidesKey == isHidden)
        #expect(!analysed(text).statement.hidesKey, "no columns are asked for")
    }

    @Test func `a comment behind what is looked at hides a user as well`() {
        let long = "insert into t values ('\(String(repeating: "x", count: 1 << 20))')"
        #expect(analysed(long + " /* user_id=7 */").statement.hidesKey)
        #expect(!analysed(long, plan: KeyPlan([])).statement.hidesKey)
    }

    @Test(arguments: [
        "select * from t where user_id > 42", "select * from t where user_id = 1 or a = 2", "select user_id from t",
        "select * from t where user_id = null", "insert into t values (42)", "insert into t (user_id) values (1), (2)",
        "with w as (select a from t where user_id = 7) select a from w", "select * from t where not user_id = 1",
        "select * from t where user_id = b",
        "select * from t where user_id = 1.5", "select * from t where user_id = E'a\\'b'", "select * from t where user_id = ''",
        "select * from t where user_id in (1, 2)", "select * from t where user_id in ($1, $2)", "select * from t where user_id in (1, 'x')",
        "select * from t where user_id in (1, 2000000000)", "select * from t where user_id in (5, $1)", "select * from t where user_id not in (1)",
        "select * from t where user_id = 'a'\n'b'", "select * from t where user_id = e'a'\n'b'", "select * from t left join u on u.user_id = 5", "select * from t where user_id in (select 1)",
        "insert into t (user_id) values (1), ($1)", "insert into t (user_id) select 5", "select * from t join u using (user_id)",
        "insert into t (a, user_id) values (1, 5), (1, null)", "select 1 where user_id = 1 union select 2 where user_id = 2",
    ])
    func `what does not name one user is no key`(text: String) {
        #expect(key(text, columns) == nil)
    }

    @Test func `each text of a shape has its own key`() {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: columns, seed: 1)
        for user in [1, 22, 333] {
            let text = Array("select * from t where a in (1, \(user)) and user_id = \(user)".utf8)
            let bytes = text.withUnsafeBytes { cache.analyse($0).key?.bytes(in: $0) }
            #expect(bytes == Array("\(user)".utf8))
        }
        #expect(cache.counters.parses == 1)
    }

    /// A list's length is not in the shape: the text decides each time, whichever came first.
    @Test(arguments: [[1, 3, 1, 2], [3, 1, 1, 2]])
    func `an IN list has a key when it has one element, whatever came before`(lengths: [Int]) {
        let cache = AnalysisCache(facts: .builtIn, keyPlan: columns, seed: 1)
        for length in lengths {
            let list = (0..<length).map { "\(40 + $0)" }.joined(separator: ",")
            let text = Array("select * from t where user_id in (\(list))".utf8)
            let key = text.withUnsafeBytes { bytes in cache.analyse(bytes).key?.bytes(in: bytes) }
            if length == 1 { #expect(key == Array("40".utf8)) } else { #expect(key == nil) }
        }
    }
}
