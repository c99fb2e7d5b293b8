import Primitives
import Testing

@testable import SQLAnalysis

@Suite struct StatementShapeTests {
    private func shape(_ text: String, _ plan: KeyPlan = KeyPlan([])) -> [UInt8]? {
        let writer = ShapeWriter(keyPlan: plan)
        return Array(text.utf8).withUnsafeBytes { bytes in
            writer.write(bytes) == .shape ? Array(writer.shape) : nil
        }
    }

    @Test(arguments: [
        ("SELECT 1", "select  2"),
        ("select 'a'", "SELECT 'it''s'"),
        ("select E'\\'x'", "select $q$ ' $q$"),
        ("select * from t where a = -5", "select * from t where a = 5"),
        ("select * from t where a=-5", "select * from t where a = 5"),
        ("select * from t where a between -1 and -2", "select * from t where a between 1 and 2"),
        ("select * from t where a in (1)", "select * from t where a in (1, 2, 3, 4)"),
        ("select * from t where a in (-1, 2)", "select * from t where a in (3, -4, 5)"),
        ("select * from t where a in ('a')", "select * from t where a in ('b','c' , 'd')"),
        ("select array[1,2,3]", "select array[1]"),
        ("/* user_id=1 */ select 1", "select -- x\n 2"),
        ("select 1.5", "select 2e10"), ("select E'a'\n'b'", "select 'a'"),
        ("select E'a' -- x\n\t-- '\n'\\'b, 1'\r'c'", "select 'a'"),
    ])
    func `literals, blanks and comments make no difference`(left: String, right: String) {
        #expect(shape(left) != nil)
        #expect(shape(left) == shape(right))
    }

    @Test(arguments: [
        ("select a", "select b"), ("select 1", "select '1'"), ("select a -5", "select a, 5"),
        ("select \"A\"", "select a"), ("select f(1)", "select f(1, 1)"), ("select 1", "select $1"),
        ("select * from t where a in (1, -x)", "select * from t where a in (1 -x)"),
        ("select * from t where a in (1,)", "select * from t where a in (1)"),
        ("select 'a'\n'b'", "select 'a' 'b'"), ("select a @-5", "select a @ -5"),
        ("select 5", "select 5000000000"), ("select U&'a'", "select 'a'"), ("select a b", "select ab"),
        ("select a->'b'", "select a - > 'b'"), ("select $1", "select $2"), ("insert into t values (1,2)", "insert into t values (1)"),
        ("select e'a'\n'\\',', f() --'", "select 'a'\n'b', 'c'"), ("select e'a' 'b'", "select e'a'"),
        ("select e'a'/*\n*/'b'", "select e'a'"), ("select e'a'\n- 'b'", "select e'a'"),
    ])
    func `what the grammar can tell apart has two shapes`(left: String, right: String) {
        #expect(shape(left) != shape(right))
    }

    @Test(arguments: ["select 1a", "select 0x1F", "select 1_000", "select \u{01}", "select $foo", "select $1a"])
    func `what versions read differently is not remembered by shape`(text: String) {
        #expect(shape(text) == nil)
    }

    @Test func `a shape one byte too long is not remembered`() {
        let name = String(repeating: "a", count: ShapeWriter.shapeBytesMax - 9)
        #expect(shape("select \(name)") != nil)
        #expect(shape("select \(name)a") == nil)
    }
}
