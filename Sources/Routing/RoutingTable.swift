import Configuration
import SQLAnalysis

/// What the configuration says of one database's reads. Immutable, any thread; a reload makes a new one.
package final class RoutingTable: Sendable {
    /// Where keys come from; give it to the database's `AnalysisCache`.
    package let keyPlan: KeyPlan
    /// Share of users whose reads go to NEW, 0...10000.
    package let hundredths: Int
    package let cohorts: Cohorts
    /// The shares of the cohorts, by index.
    package let cohortHundredths: [Int]
    /// Settings whose value is a routing key (`godwit.user`), lower case: Godwit answers their SET.
    package let keySettings: [String]
    /// What has no key of its own has its session's user as one.
    package let usesSessionWhenKeyless: Bool
    package let rules: RuleSet
    /// Some tables are others on NEW: a transaction that says READ ONLY may come to one of them, and cannot leave then.
    package let hasUnlikeTables: Bool

    package init(
        keyPlan: KeyPlan, hundredths: Int, cohorts: [ReadSettings.Cohort] = [],
        keyless: ReadSettings.Keyless = .old, rules: [RuleSettings] = [], hasUnlikeTables: Bool = false
    ) {
        self.hasUnlikeTables = hasUnlikeTables
        precondition((0...10_000).contains(hundredths), "a share outside 0...100 percent")
        self.keyPlan = keyPlan
        self.hundredths = hundredths
        self.cohorts = Cohorts(cohorts.map(\.members))
        usesSessionWhenKeyless = keyless == .session
        self.rules = RuleSet(rules)
        cohortHundredths = cohorts.map(\.hundredths)
        keySettings = keyPlan.sources.compactMap { source in
            if case .setting(let name) = source { name } else { nil }
        }
    }

    package convenience init(
        _ settings: ReadSettings, rules: [RuleSettings] = [], hasUnlikeTables: Bool = false
    ) {
        let sources = settings.key.map { source -> KeyPlan.Source in
            switch source {
            case .comment(let name): .comment(name)
            case .setting(let name): .setting(name.lowercased())
            case .column(let name): .column(name.lowercased())
            case .sessionUser: .sessionUser
            case .applicationName: .applicationName
            case .clientAddress: .clientAddress
            }
        }
        self.init(
            keyPlan: KeyPlan(sources), hundredths: settings.hundredths, cohorts: settings.cohorts,
            keyless: settings.keyless, rules: rules, hasUnlikeTables: hasUnlikeTables)
    }

    /// True when no key whatever could lead to NEW: analysis may be skipped.
    package var sendsNothingToNew: Bool {
        hundredths == 0 && cohortHundredths.allSatisfy { $0 == 0 } && !rules.forcesNew
    }

    /// The share that counts for this key: that of the first cohort that lists it, else everyone's.
    ///
    /// - Parameter identity: a unit that is under way when cohorts are taken away has one of an earlier table.
    package func share(of identity: KeyIdentity) -> Int {
        guard let cohort = identity.cohort, Int(cohort) < cohortHundredths.count else { return hundredths }
        return cohortHundredths[Int(cohort)]
    }
}

/// Which of a unit's possible keys counts. A value, any thread.
package enum KeyChoice: Sendable, Equatable {
    /// The text's own key (`Analysis.key`).
    case text(KeyReference)
    /// The session's value of the setting at this index of `KeyPlan.sources`.
    case setting(Int)
    case sessionUser
    case none
}

extension RoutingTable {
    /// The first source of the plan that has an answer.
    ///
    /// - Parameter settingSource: index in `KeyPlan.sources` of the first setting that the session has a value for.
    package func keyChoice(text key: KeyReference?, settingSource: Int?) -> KeyChoice {
        for (index, source) in keyPlan.sources.enumerated() {
            switch source {
            case .comment, .column: if let key, key.source == index { return .text(key) }
            case .setting: if settingSource == index { return .setting(index) }
            case .sessionUser: return .sessionUser
            case .applicationName, .clientAddress: break   // known to a session only
            }
        }
        return usesSessionWhenKeyless ? .sessionUser : .none
    }
}

/// A routing key, digested: what the hot path carries instead of its text. A value, any thread.
package struct KeyIdentity: Sendable, Equatable {
    /// For `ReadStamps`; two keys may share it.
    package let hash: UInt64
    package let bucket: UserBucket
    package let cohort: UInt16?

    package init(hash: UInt64, bucket: UserBucket, cohort: UInt16?) {
        self.hash = hash
        self.bucket = bucket
        self.cohort = cohort
    }
}
