import Configuration

/// Readings to gates. No state, any thread.
package enum GateJudge {
    /// What must hold before the phase is left.
    ///
    /// - Parameter now: microseconds since 1970.
    package static func gates(
        _ state: MigrationState, _ manifest: MigrationManifest, _ readings: MigrationReadings, now: Int64
    ) -> [Gate] {
        var gates: [Gate] = []
        if !readings.unreachable.isEmpty {
            gates.append(Gate(
                "reachable", value: readings.unreachable, threshold: "both sides answer", holds: false,
                advice: "see to the server that does not answer"))
        }
        if manifest.mapping != nil, state.phase != .cleanup { gates.append(mapped(readings)) }
        switch state.phase {
        case .prepare:
            gates.append(Gate(
                "prepared", value: state.isPrepared ? "yes" : state.work == .install ? "under way" : "no",
                threshold: "yes", holds: state.isPrepared,
                advice: "mend what the cause says; it is tried again by advance"))
        case .backfill: gates += [mirroring(readings), copied(readings)]
        case .mirror: gates += [mirroring(readings), captured(readings), lag(manifest, readings)]
        case .validate:
            gates += [mirroring(readings), lag(manifest, readings), verified(manifest, readings, now)]
            gates += invariants(manifest, readings)
        case .shadow: gates += [mirroring(readings), lag(manifest, readings), shadow(manifest, readings)]
        case .shift:
            gates += [mirroring(readings), captured(readings), lag(manifest, readings)]
            gates += quality(manifest, readings)
        case .cutover:
            gates += [mirroring(readings), captured(readings), lag(manifest, readings)]
            gates += quality(manifest, readings)
            gates.append(verified(manifest, readings, now))
            gates += invariants(manifest, readings)
            gates += switching(manifest, readings)
        case .watch: gates += [mirroring(readings), lag(manifest, readings)]
        case .cleanup: gates.append(bystanders(readings))
        }
        return gates
    }

    // MARK: the mirror

    private static func mirroring(_ readings: MigrationReadings) -> Gate {
        let value = readings.mirror.map { state in
            readings.mirrorReason.isEmpty ? state.rawValue : "\(state.rawValue): \(readings.mirrorReason)"
        }
        let holds = readings.mirror.map { $0 == .mirroring || $0 == .backfill }
        return Gate(
            "mirror", value: value ?? "not measured", threshold: "running", holds: holds,
            advice: "SHOW MIRROR says what it waits for; databases.*.mirror.mode must be async or sync")
    }

    private static func copied(_ readings: MigrationReadings) -> Gate {
        let percent = readings.copiedPercent.map { ", \(text($0)) % of the rows" } ?? ""
        return Gate(
            "copied", value: readings.tablesLeft.map { "\($0) tables left\(percent)" } ?? "not measured",
            threshold: "0 tables left", holds: readings.tablesLeft.map { $0 == 0 },
            advice: "wait; SHOW TABLES tells how far each is, mirror.backfill_rate how fast it may go")
    }

    private static func mapped(_ readings: MigrationReadings) -> Gate {
        let names = readings.otherwiseMapped.prefix(5).joined(separator: ", ")
        return Gate(
            "mapping", value: names.isEmpty ? "as in the manifest" : "configured otherwise: \(names)",
            threshold: "as in the manifest", holds: names.isEmpty,
            advice: "make databases.*.mirror.tables what scope.mapping says and start Godwit again, or start another "
                + "migration with what is configured")
    }

    private static func captured(_ readings: MigrationReadings) -> Gate {
        let names = readings.uncaptured.prefix(5).joined(separator: ", ")
        return Gate(
            "captured", value: readings.uncaptured.isEmpty ? "all tables" : "not mirrored: \(names)",
            threshold: "all tables", holds: readings.uncaptured.isEmpty,
            advice: "make them on NEW and run godwit prepare again")
    }

    private static func lag(_ manifest: MigrationManifest, _ readings: MigrationReadings) -> Gate {
        Gate(
            "lag", value: readings.lagSeconds.map { "\(text($0)) s" } ?? "not measured",
            threshold: "\(text(manifest.gates.lagSeconds)) s",
            holds: readings.lagSeconds.map { $0 <= manifest.gates.lagSeconds },
            advice: "wait until it has caught up; SHOW MIRROR, and long transactions on the side that has the writes")
    }

    // MARK: equality

    /// A comparison of later than that was made by a clock that has been set back since: nobody knows how old it is.
    private static let futureSeconds = 5.0

    private static func verified(_ manifest: MigrationManifest, _ readings: MigrationReadings, _ now: Int64) -> Gate {
        let limit = manifest.gates.verifyAgeSeconds
        let threshold = "equal, at most \(text(limit)) s ago"
        guard let verify = readings.verify else {
            return Gate(
                "verified", value: readings.isVerifying ? "under way" : "not yet", threshold: threshold, holds: nil,
                advice: "wait for its end")
        }
        let age = Double(now - verify.at) / 1e6
        let found = verify.outcome == .unknown ? "could not tell" : verify.outcome.rawValue
        let detail = verify.detail.isEmpty ? "" : " (\(verify.detail))"
        return Gate(
            "verified", value: "\(found), \(verify.rows) rows, \(text(max(0, age.rounded()))) s ago\(detail)",
            threshold: threshold, holds: verify.outcome == .equal && age <= limit && age >= -Self.futureSeconds,
            advice: verify.outcome == .equal
                ? "wait for the next one" : "godwit verify shows the keys; with --repair it brings them again")
    }

    private static func invariants(_ manifest: MigrationManifest, _ readings: MigrationReadings) -> [Gate] {
        manifest.invariants.map { invariant in
            let found = readings.invariants?.first { $0.name == invariant.name }
            return Gate(
                "invariant \(invariant.name)",
                value: found.map { $0.isEqual ? $0.old : "OLD \($0.old), NEW \($0.new)" } ?? "not measured",
                threshold: invariant.tolerance == 0 ? "equal" : "within \(text(invariant.tolerance))",
                holds: found?.isEqual, advice: "run its query on both sides")
        }
    }

    private static func shadow(_ manifest: MigrationManifest, _ readings: MigrationReadings) -> Gate {
        let wanted = manifest.gates.shadowReads
        let limit = manifest.gates.shadowMismatchPercent
        let value = readings.compared.map { compared in
            "\(compared.reads) reads compared, \(compared.differing) differ"
                + (compared.shapesOutstanding > 0 ? ", \(compared.shapesOutstanding) shapes not compared yet" : "")
        }
        let isDifferent = readings.compared.map { $0.mismatchPercent > limit } ?? false
        return Gate(
            "shadow", value: value ?? "not measured",
            threshold: "\(wanted) reads, every shape, at most \(text(limit)) % differ",
            holds: readings.compared.map {
                $0.reads >= wanted && $0.mismatchPercent <= limit && $0.shapesOutstanding == 0
            },
            isRequired: wanted > 0,
            advice: isDifferent
                ? "SHOW SHADOW_SHAPES tells which reads differ, and in what; SHADOW 0 and then 1 counts anew"
                : "databases.*.shadow.percent, or SHADOW, compares reads; SHOW SHADOW tells what it waits for, and "
                    + "SHOW SHADOW_SHAPES why a shape was not compared (shadow.timeout, for one)")
    }

    // MARK: quality of NEW's answers

    /// They count once there are enough answers of both sides; before that there is nothing to be held against NEW.
    private static func quality(_ manifest: MigrationManifest, _ readings: MigrationReadings) -> [Gate] {
        var gates = [Gate(
            "breaker", value: readings.isBreakerClosed.map { $0 ? "closed" : "not closed" } ?? "not measured",
            threshold: "closed", holds: readings.isBreakerClosed,
            advice: "SHOW BREAKERS names the cause; FORCE overrules it")]
        let limits = manifest.gates
        guard let old = readings.old, let new = readings.new, new.calls >= readings.callsMin else {
            let calls = readings.new?.calls ?? 0
            let few = "too few answers (\(calls) of \(readings.callsMin))"
            return gates + [
                Gate("errors", value: few, threshold: "", holds: nil, isRequired: false),
                Gate("latency", value: few, threshold: "", holds: nil, isRequired: false),
            ]
        }
        gates.append(Gate(
            "errors", value: "NEW \(text(new.errorPercent)) %, OLD \(text(old.errorPercent)) %",
            threshold: "at most \(text(limits.errorPoints)) points over OLD",
            holds: new.errorPercent <= old.errorPercent + limits.errorPoints, advice: "SHOW BREAKERS, SHOW SHAPES"))
        let isComparable = old.calls >= readings.callsMin && old.p95Micros != nil && new.p95Micros != nil
        let (ours, theirs) = (Double(old.p95Micros ?? 0) / 1000, Double(new.p95Micros ?? 0) / 1000)
        gates.append(Gate(
            "latency", value: "p95 of NEW \(text(theirs)) ms, of OLD \(text(ours)) ms",
            threshold: "at most \(text(limits.latencyFactor)) times OLD's",
            holds: isComparable ? theirs <= max(ours * limits.latencyFactor, ours + slackMillis) : nil,
            isRequired: isComparable, advice: "indexes, ANALYZE, and settings of NEW; SHOW SHAPES"))
        return gates
    }

    /// Milliseconds by which NEW may always be slower.
    static let slackMillis = 2.0

    // MARK: the switch

    private static func switching(_ manifest: MigrationManifest, _ readings: MigrationReadings) -> [Gate] {
        var gates = [
            Gate(
                "transactions",
                value: readings.oldestTransactionSeconds.map { "oldest \(text($0)) s" } ?? "not measured",
                threshold: "at most \(text(manifest.gates.transactionSeconds)) s",
                holds: readings.oldestTransactionSeconds.map { $0 <= manifest.gates.transactionSeconds },
                advice: "pg_stat_activity of OLD names them; end them, or wait"),
            Gate(
                "prepared transactions", value: readings.preparedTransactions.map { "\($0)" } ?? "not measured",
                threshold: "0", holds: readings.preparedTransactions.map { $0 == 0 },
                advice: "commit or roll back what is in pg_prepared_xacts of OLD"),
            Gate(
                "free connections", value: readings.freeConnections.map { "\($0)" } ?? "not measured",
                threshold: "\(manifest.gates.freeConnections)",
                holds: readings.freeConnections.map { $0 >= manifest.gates.freeConnections },
                advice: "raise max_connections of NEW, or close what it does not need"),
            Gate(
                "sequences", value: readings.sequencesMissing.map {
                    $0.isEmpty ? "all are on NEW" : "missing on NEW: \($0.prefix(5).joined(separator: ", "))"
                } ?? "not measured",
                threshold: "all are on NEW", holds: readings.sequencesMissing.map { $0.isEmpty },
                advice: "make them on NEW; the switch raises them"),
        ]
        if let rails = readings.guardRails {
            gates += rails.map {
                Gate("switch: \($0.name)", value: $0.value, threshold: $0.threshold, holds: $0.holds, advice: $0.advice)
            }
        } else {
            gates.append(Gate(
                "switch", value: "not measured", threshold: "its guard rails hold", holds: nil,
                advice: "they are looked at every few seconds while the migration is in this phase"))
        }
        return gates
    }

    private static func bystanders(_ readings: MigrationReadings) -> Gate {
        Gate(
            "others on OLD", value: readings.othersOnOld.map { "\($0) sessions" } ?? "not measured",
            threshold: "0 sessions", holds: readings.othersOnOld.map { $0 == 0 }, isRequired: false,
            advice: "pg_stat_activity of OLD names them: what they read there will be old soon")
    }

    // MARK: words

    /// Up to three digits after the point.
    package static func text(_ value: Double) -> String {
        guard value.isFinite, abs(value) < 1e15 else { return "\(value)" }
        let rounded = (value * 1000).rounded() / 1000
        return rounded == rounded.rounded() ? "\(Int64(rounded))" : "\(rounded)"
    }
}
