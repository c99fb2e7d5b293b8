import Foundation
import Primitives
import Testing

@testable import Configuration

/// The source tree as the tests see it.
enum Tree {
    static let root: URL = URL(filePath: #filePath).deletingLastPathComponent().deletingLastPathComponent()
        .deletingLastPathComponent()

    static func text(_ path: String) throws -> String {
        try String(contentsOf: root.appending(path: path), encoding: .utf8)
    }

    /// Paths of all Swift files below a folder, relative to the root.
    static func swiftFiles(_ folder: String) throws -> [String] { try files(folder, ".swift") }

    static func files(_ folder: String, _ suffix: String) throws -> [String] {
        let base = root.appending(path: folder)
        guard FileManager.default.fileExists(atPath: base.path) else { return [] }
        return try FileManager.default.subpathsOfDirectory(atPath: base.path)
            .filter { $0.hasSuffix(suffix) }.map { "\(folder)/\($0)" }.sorted()
    }
}

@Suite struct TidyTests {
    @Test func `no file is past 600 lines and no line past 120 columns`() throws {
        for path in try Tree.swiftFiles("Sources") + Tree.swiftFiles("Tests") + Tree.swiftFiles("loadtest") {
            let lines = try Tree.text(path).split(separator: "\n", omittingEmptySubsequences: false)
            #expect(lines.count <= 601, "\(path) has \(lines.count) lines")
            guard path.hasPrefix("Sources") else { continue }
            for (index, line) in lines.enumerated() where line.count > 120 {
                Issue.record("\(path):\(index + 1) has \(line.count) columns")
            }
        }
    }

    @Test func `the sources hold nothing that traps by surprise`() throws {
        let banned = ["try!", "as!", "fatalError(", "TODO", "FIXME", "unowned "]
        for path in try Tree.swiftFiles("Sources") {
            let text = try Tree.text(path)
            for word in banned where text.contains(word) { Issue.record("\(path) holds \(word)") }
        }
    }

    @Test func `nothing is public`() throws {
        for path in try Tree.swiftFiles("Sources") {
            for line in try Tree.text(path).split(separator: "\n") {
                if line.firstMatch(of: /^\s*(?:@\w+ )*(?:public |open (?:class|func|var) )/) != nil {
                    Issue.record("\(path): \(line)")
                }
            }
        }
    }

    @Test func `no test sleeps`() throws {
        let sleep = /sleep\(|poll\(nil/
        let files = try Tree.swiftFiles("Tests") + Tree.files("Tests", ".py")
        // What asks again and again does so by `waitUntil`, which tells of a wait in vain.
        let exempt = ["Tests/TidyTests", "Tests/TestSupport/Awaited.swift", "Tests/TestSupport/TCPRelay.swift"]
        for path in files where !exempt.contains(where: { path.hasPrefix($0) }) {
            for (index, line) in try Tree.text(path).split(separator: "\n", omittingEmptySubsequences: false).enumerated() {
                // The server's own pg_sleep inside of SQL is not ours.
                let code = line.replacing("pg_sleep(", with: "")
                if code.contains(sleep) { Issue.record("\(path):\(index + 1): \(line)") }
            }
        }
    }
}

@Suite struct ImportTests {
    /// Modules of the toolchain: nobody declares them.
    private static let system: Set<String> = ["Glibc", "Foundation", "Synchronization", "Dispatch", "Testing", "RegexBuilder", "FoundationNetworking"]
    private static let floors = try? declared()

    /// Target name to the names between the brackets of its declaration in Package.swift.
    private static func declared() throws -> [String: Set<String>] {
        let text = try Tree.text("Package.swift")
        var targets: [String: Set<String>] = [:]
        for match in text.matches(of: /floor\("(\w+)",\s*\[([^\]]*)\]/) {
            targets[String(match.output.1)] = names(String(match.output.2))
        }
        for match in text.matches(of: /executableTarget\(\s*name: "(\w+)",\s*dependencies: \[([^\]]*)\]/) {
            targets[String(match.output.1)] = names(String(match.output.2))
        }
        return targets
    }

    private static func names(_ list: String) -> Set<String> {
        let products = [
            "yams": "Yams", "logging": "Logging", "arguments": "ArgumentParser", "grdb": "GRDB",
            "hummingbird": "Hummingbird", "hummingbirdCore": "HummingbirdCore", "nioCore": "NIOCore",
            "nioPosix": "NIOPosix", "nioEmbedded": "NIOEmbedded", "nioHTTP1": "NIOHTTP1",
            "nioHTTPTypes": "NIOHTTPTypes", "httpTypes": "HTTPTypes",
        ]
        return Set(
            list.split { $0 == "," || $0.isWhitespace }.map { word in
                let name = word.trimmingCharacters(in: CharacterSet(charactersIn: "\""))
                return products[name] ?? name
            })
    }

    @Test func `a target imports only what Package.swift declares for it`() throws {
        let floors = try #require(Self.floors)
        #expect(floors.count > 10, "Package.swift is no longer read right")
        for path in try Tree.swiftFiles("Sources") {
            let target = String(path.split(separator: "/")[1])
            let allowed = try #require(floors[target], "\(target) is not declared")
            for match in try Tree.text(path).matches(of: /(?m)^(?:@\w+ )?(?:package |internal |private )?import (?:struct |class |enum |func )?(\w+)/) {
                let module = String(match.output.1)
                #expect(allowed.contains(module) || Self.system.contains(module), "\(path) imports \(module)")
            }
        }
    }

    @Test func `the data plane never sees libpq`() throws {
        let floors = try #require(Self.floors)
        for target in ["Proxy", "Sessions", "Pooling", "Routing", "PGWire", "Reactor", "SQLAnalysis", "Console"] {
            let dependencies = try #require(floors[target])
            #expect(!dependencies.contains("LibPQ") && !dependencies.contains("CLibPQ"))
        }
    }
}

@Suite struct SettingsDocumentationTests {
    @Test func `the example files are accepted`() throws {
        for name in ["godwit.yaml", "godwit-minimal.yaml"] {
            _ = try SettingsFile.load(path: Tree.root.appending(path: "conf/\(name)").path)
        }
        let users = try UserList.load(path: Tree.root.appending(path: "conf/users.example").path)
        #expect(users.secrets.count == 2)
    }

    @Test func `the full example shows the defaults`() throws {
        let full = try SettingsFile.load(path: Tree.root.appending(path: "conf/godwit.yaml").path)
        let least = try SettingsFile.load(path: Tree.root.appending(path: "conf/godwit-minimal.yaml").path)
        var without = full
        without.databases[0].reads.cohorts = []
        #expect(ReloadPolicy.changes(from: least, to: without).isEmpty)
    }

    @Test func `every setting is in the full example, with its unit and what a reload does`() throws {
        let lines = try Tree.text("conf/godwit.yaml").split(separator: "\n", omittingEmptySubsequences: false)
        for (section, keys) in SettingsReader.keys {
            for key in keys {
                let full = Section.join(section, key).replacing("databases.*", with: "databases.shop")
                guard SettingsReader.keys[Section.join(section, key)] == nil, key != "databases" else { continue }
                let effect = ReloadPolicy.effect(of: full).rawValue
                let places = lines.indices.filter { index in
                    lines[index].trimmingCharacters(in: .whitespaces).hasPrefix("\(key):")
                }
                #expect(!places.isEmpty, "\(full) is not shown")
                #expect(places.contains { comment(lines, $0).contains(effect) }, "\(full) should say \(effect)")
            }
        }
    }

    /// What stands behind the key, and in the block of comments above it.
    private func comment(_ lines: [Substring], _ index: Int) -> String {
        var comment = String(lines[index].split(separator: "#", maxSplits: 1).dropFirst().first ?? "")
        var above = index - 1
        while above >= 0, lines[above].trimmingCharacters(in: .whitespaces).hasPrefix("#") {
            comment += lines[above]
            above -= 1
        }
        return comment
    }
}
