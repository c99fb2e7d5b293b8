import Configuration
import Digests
import Primitives

enum FileFuzz {
    private static func text(_ bytes: [UInt8]) -> String { String(decoding: bytes, as: UTF8.self) }

    static func manifest(_ bytes: [UInt8]) {
        do throws(SettingsError) {
            let manifest = try ManifestReader.parse(text(bytes))
            precondition(!manifest.id.isEmpty && !manifest.steps.isEmpty, "a manifest without its parts")
        } catch {
            precondition(!error.description.isEmpty, "an error without words")
        }
    }

    static func settings(_ bytes: [UInt8]) {
        do throws(SettingsError) {
            let settings = try SettingsFile.parse(text: text(bytes), path: "/fuzz.yaml")
            precondition(ReloadPolicy.changes(from: settings, to: settings).isEmpty, "settings that differ from themselves")
        } catch {
            precondition(!error.description.isEmpty, "an error without words")
        }
    }

    static func userList(_ bytes: [UInt8]) {
        do throws(SettingsError) {
            let list = try UserList.parse(text: text(bytes), path: "/users.txt")
            for name in list.secrets.names { precondition(!name.isEmpty, "a user without a name") }
        } catch {
            precondition(!error.description.isEmpty, "an error without words")
        }
    }

    static func hba(_ bytes: [UInt8]) {
        do throws(SettingsError) {
            let file = try HBAFile.parse(text: text(bytes), path: "/hba.conf")
            for isEncrypted in [false, true] {
                let peer = HBAFile.Peer(address: NetworkAddress(ipv4: 0x7f00_0001), isEncrypted: isEncrypted)
                _ = file.rule(for: peer, database: "shop", user: "app")
                _ = file.rule(for: HBAFile.Peer(address: nil, isEncrypted: false), database: text(bytes), user: "app")
            }
        } catch {
            precondition(!error.description.isEmpty, "an error without words")
        }
    }

    static func ident(_ bytes: [UInt8]) {
        do throws(SettingsError) {
            let file = try IdentFile.parse(text: text(bytes), path: "/ident.conf")
            _ = file.allows(map: "m", system: "ann@example.org", user: "ann")
            _ = file.allows(map: "m", system: text(Array(bytes.prefix(100))), user: text(bytes))
        } catch {
            precondition(!error.description.isEmpty, "an error without words")
        }
    }

    /// Every line is found again, and nothing else, however the file is cut.
    static func cohort(_ bytes: [UInt8]) {
        let whole = cohort([bytes])
        precondition(whole == cohort(pieces(bytes)), "the pieces of a file change it")
        guard let whole else { return }
        var count = 0
        for line in bytes.split(separator: 0x0A) {
            var line = line
            while let last = line.last, [0x20, 0x0D, 0x09].contains(last) { line.removeLast() }
            if line.isEmpty { continue }
            count += 1
            precondition(line.count <= CohortFile.lineBytesMax, "a line that is too long")
            precondition(whole.contains(Digest.md5Value(Array(line))), "a key that is lost")
        }
        precondition(whole.count <= count, "keys that nobody has written")
    }

    private static func cohort(_ parts: [[UInt8]]) -> CohortFile? {
        do throws(SettingsError.Reason) {
            var reader = CohortFile.Reader(path: "/cohort")
            for part in parts { try reader.take(part) }
            return try reader.finish()
        } catch {
            return nil
        }
    }

    /// A pattern and a text, with a line between: the time is bounded by their lengths.
    static func pattern(_ bytes: [UInt8]) {
        let parts = bytes.split(separator: 0x0A, maxSplits: 1, omittingEmptySubsequences: false)
        let source = text(Array(parts.first ?? []))
        let subject = Array(parts.dropFirst().first ?? [])
        do throws(LinearPattern.Failure) {
            let pattern = try LinearPattern(regex: source)
            precondition(pattern.matches(subject) == pattern.matches(subject), "a verdict that changes")
        } catch {
            precondition(!error.description.isEmpty, "an error without words")
        }
        do throws(LinearPattern.Failure) {
            let pattern = try LinearPattern(glob: source)
            _ = pattern.matches(subject)
        } catch {
            precondition(!error.description.isEmpty, "an error without words")
        }
    }
}
