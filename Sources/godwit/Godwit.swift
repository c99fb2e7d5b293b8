import ArgumentParser

@main
struct Godwit: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "godwit",
        abstract: "Moves a live application from one PostgreSQL database to another without a stop.",
        subcommands: [CheckCommand.self, PrepareCommand.self, VerifyCommand.self])
}
