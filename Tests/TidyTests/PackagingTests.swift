import Foundation
import Primitives
import Testing

@testable import Configuration

/// What is installed is in the tree, and says what the program does.
@Suite struct PackagingTests {
    @Test func `the package's configuration is accepted`() throws {
        _ = try SettingsFile.load(path: Tree.root.appending(path: "conf/debian/godwit.yaml").path)
        let users = try UserList.load(path: Tree.root.appending(path: "conf/debian/users.txt").path)
        #expect(users.secrets.isEmpty)
    }

    @Test func `what the package's script and the Dockerfile copy is there`() throws {
        for script in ["scripts/deb", "conf/Dockerfile"] {
            for match in try Tree.text(script).matches(of: /(?:conf|scripts|docs)\/[\w.\/-]*\w/) {
                let path = Tree.root.appending(path: String(match.output)).path
                #expect(FileManager.default.fileExists(atPath: path), "\(script): \(match.output)")
            }
        }
        for script in ["postinst", "prerm", "postrm"] {
            #expect(try Tree.text("conf/debian/\(script)").hasPrefix("#!/bin/sh\n"))
        }
    }

    @Test func `the unit runs the program as its user, and a reload is what the program takes for one`() throws {
        let unit = try Tree.text("conf/systemd/godwit.service")
        for line in [
            "ExecStart=/usr/bin/godwit serve --config /etc/godwit/godwit.yaml", "Type=notify", "User=godwit",
            "ExecReload=/bin/kill -HUP $MAINPID", "NotifyAccess=all", "ProtectSystem=strict", "NoNewPrivileges=yes",
            "StartLimitIntervalSec=0", "TimeoutStartSec=2h", "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK",
        ] {
            #expect(unit.contains("\n\(line)\n"), "\(line)")
        }
        let sockets = try Tree.text("conf/systemd/godwit.socket")
        #expect(sockets.contains("\nFileDescriptorName=clients\n"))
        // They outlast the service's restarts.
        #expect(!sockets.contains("\nPartOf="))
    }

    @Test func `alerts go by metrics that there are, and by a side's role, which a switch exchanges`() throws {
        let rules = try Tree.text("conf/prometheus-rules.yaml")
        let sources = try ["Sources/Proxy/ProxyMetrics.swift", "Sources/Proxy/ConsoleShadowTables.swift",
            "Sources/godwit/AdminService.swift"].map { try Tree.text($0) }.joined()
        for match in rules.matches(of: /(?:godwit|migration)_[a-z_]+/) {
            #expect(sources.contains("\"\(match.output)\""), "\(match.output)")
        }
        for line in rules.split(separator: "\n") where line.contains("godwit_breaker_state{") {
            #expect(line.contains("{role=") && !line.contains("side=\""), "\(line)")
        }
        // Compared reads that differ have an alert of their own.
        #expect(rules.contains("migration_validation_errors_total{error_type=\"written_on_new\"}"))
    }

    @Test func `an upgrade goes on where a file of the configuration was taken away`() throws {
        let folder = FileManager.default.temporaryDirectory.appending(path: "godwit-postinst-\(UUID().uuidString)")
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        defer { try? FileManager.default.removeItem(at: folder) }
        // Nothing of this machine is touched. What is not there is an error, as chown has it.
        var programs = ["chown": "for last; do :; done\n[ -e \"$last\" ]", "chmod": "for last; do :; done\n[ -e \"$last\" ]"]
        for name in ["adduser", "getent", "install", "systemctl", "deb-systemd-invoke", "rm"] { programs[name] = "exit 0" }
        for (name, text) in programs {
            let path = folder.appending(path: name).path
            try "#!/bin/sh\n\(text)\n".write(toFile: path, atomically: false, encoding: .utf8)
            try FileManager.default.setAttributes([.posixPermissions: 0o755], ofItemAtPath: path)
        }
        let script = Process()
        script.executableURL = URL(filePath: "/bin/sh")
        script.arguments = [Tree.root.appending(path: "conf/debian/postinst").path, "configure", "1"]
        script.environment = ["PATH": "\(folder.path):/usr/bin:/bin"]
        try script.run()
        script.waitUntilExit()
        #expect(script.terminationStatus == 0)
    }

    @Test func `a package that was removed and is installed again runs again`() throws {
        let scripts = try ["prerm", "postinst"].map { try Tree.text("conf/debian/\($0)") }
        // The mark is made where the unit is disabled, before it is, and is gone behind the next installation.
        let made = try #require(scripts[0].firstRange(of: "touch \"/etc/godwit/.enabled-$unit\""))
        let disabled = try #require(scripts[0].firstRange(of: "systemctl --quiet disable"))
        #expect(made.upperBound < disabled.lowerBound)
        #expect(scripts[1].contains("[ -e \"/etc/godwit/.enabled-$unit\" ] || continue"))
        #expect(scripts[1].contains("rm -f /etc/godwit/.enabled-godwit.service /etc/godwit/.enabled-godwit.socket"))
    }

    @Test func `the manual page names every signal and exit status that serve's help does`() throws {
        let page = try Tree.text("conf/debian/godwit.1")
        for word in ["SIGHUP", "SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGURG", "takeover", "offline"] {
            #expect(page.contains(word), "\(word)")
        }
        // Every command, by the names in the program.
        for path in try Tree.swiftFiles("Sources/godwit") {
            for match in try Tree.text(path).matches(of: /commandName: "(\w+)"/) {
                #expect(page.contains("\(match.output.1)"), "\(match.output.1)")
            }
        }
    }

    @Test func `what the documents say is shown in full comes with the package`() throws {
        for file in [
            "conf/godwit.yaml", "conf/migration.yaml", "conf/users.example", "conf/prometheus-rules.yaml", "docs/openapi.yaml",
        ] {
            #expect(try Tree.text("scripts/deb").contains(file), "\(file)")
        }
    }
}
