import ArgumentParser
import Proxy

@main
struct Godwit: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "godwit",
        abstract: "Moves a live application from one PostgreSQL database to another without a stop.",
        version: ConsoleTables.version,
        subcommands: [
            ServeCommand.self, CheckCommand.self, PrepareCommand.self, VerifyCommand.self, BucketCommand.self,
            ExplainCommand.self, MigrateCommand.self,
        ])
}
