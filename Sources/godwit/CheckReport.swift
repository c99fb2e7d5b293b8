import Primitives

/// What `godwit check` has found. Lives within one run.
struct CheckReport {
    struct Finding {
        enum Weight: String {
            /// It would not work, or not be right.
            case problem
            /// To be known.
            case note
            /// It could not be found out.
            case unknown
        }

        var weight: Weight
        /// Empty: it is about the file or this machine.
        var database: String
        var place: String
        var what: String
    }

    struct Database {
        var name: String
        /// As `15.18`; empty: it cannot be reached.
        var old = ""
        var new = ""
        var tables = 0
    }

    /// Lines are printed as they come.
    var isJSON: Bool
    private(set) var findings: [Finding] = []
    var databases: [Database] = []

    init(isJSON: Bool) { self.isJSON = isJSON }

    mutating func add(_ weight: Finding.Weight, database: String = "", _ place: String, _ what: String) {
        findings.append(Finding(weight: weight, database: database, place: place, what: what))
        if isJSON { return }
        switch weight {
        case .problem: say("PROBLEM \(place): \(what)")
        case .note: say("note \(place): \(what)")
        case .unknown: complain("\(database.isEmpty ? "" : "\(database), ")\(place): \(what)")
        }
    }

    /// For people only.
    func tell(_ line: String) { if !isJSON { say(line) } }

    func count(_ weight: Finding.Weight, of database: String? = nil) -> Int {
        findings.count { $0.weight == weight && (database == nil || $0.database == database) }
    }

    /// 0: nothing stands in the way. 1: something does. 2: it cannot be told.
    var status: Int32 { count(.unknown) > 0 ? 2 : count(.problem) > 0 ? 1 : 0 }

    var json: String {
        let outcome = ["ok", "problems", "unknown"][Int(status)]
        let all = findings.map { finding in
            "{\"weight\":\"\(finding.weight.rawValue)\",\"database\":\(JSONText.quoted(finding.database)),"
                + "\"place\":\(JSONText.quoted(finding.place)),\"what\":\(JSONText.quoted(finding.what))}"
        }
        let rows = databases.map { row in
            "{\"name\":\(JSONText.quoted(row.name)),\"old_version\":\(JSONText.quoted(row.old)),"
                + "\"new_version\":\(JSONText.quoted(row.new)),\"tables\":\(row.tables)}"
        }
        return "{\"outcome\":\"\(outcome)\",\"findings\":[\(all.joined(separator: ","))],"
            + "\"databases\":[\(rows.joined(separator: ","))]}"
    }
}
