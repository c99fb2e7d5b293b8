import TestSupport
import Testing

@Suite struct WireClientTests {
    @Test func `the scripted client speaks to PostgreSQL in both protocols`() throws {
        let cluster = try PostgresCluster(.old15)
        let client = try WireClient(port: cluster.port, database: "postgres", user: "postgres")
        #expect(client.cancelKey.count == 8)
        #expect(try client.value("SELECT 41 + 1") == "42")
        client.sendByteByByte(
            FrameBuilder.parse("SELECT $1::int + 1") + FrameBuilder.bind(parameters: ["41"])
                + FrameBuilder.execute() + FrameBuilder.sync)
        let answers = try client.readToReady()
        #expect(answers.map(\.type) == ["1", "2", "D", "C", "Z"])
        #expect(answers[2].columns == ["42"])
        #expect(try client.query("SELECT 1/0").first?.sqlState == "22012")
        client.send(FrameBuilder.terminate)
        #expect(try client.readToEnd().isEmpty)
    }
}
