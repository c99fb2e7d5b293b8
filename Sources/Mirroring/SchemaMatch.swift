import LibPQ
import Primitives

/// Whether a table of NEW can hold the rows of its twin on OLD. Pure.
package enum SchemaMatch {
    /// - Parameter old: the source's, in the target's shape where a mapping gives it one.
    package static func defects(
        _ direction: MirrorDirection = .forward, old: TableDescription, new: TableDescription?
    ) -> [Preflight.Finding] {
        let (source, target) = (direction.source.title, direction.target.title)
        guard old.kind != .foreign else { return [] }
        let place = "\(target) \(old.name)"
        guard let new else {
            return [Preflight.blocking(place, "does not exist", "Create it as on \(source) (pg_dump --schema-only)")]
        }
        var found: [Preflight.Finding] = []
        if new.kind == .foreign || new.hasUnfitPartition {
            found.append(Preflight.blocking(
                place, "is a foreign table or has a foreign or unlogged partition", "Create it as on \(source)"))
        }
        if new.isUnlogged {
            found.append(Preflight.blocking(
                place, "is unlogged: a crash of \(target) would empty it unseen", "ALTER TABLE ... SET LOGGED"))
        }
        if new.hidesRows {
            found.append(Preflight.blocking(
                place, "row level security hides rows from us", "Give the control user BYPASSRLS"))
        }
        // Who reads the parent reads its children, too.
        if old.view == nil, (old.inheritsFrom == nil) != (new.inheritsFrom == nil) {
            let (here, there) = (new.inheritsFrom, old.inheritsFrom)
            found.append(Preflight.blocking(
                place, "inherits from \(here ?? "no table"), on \(source) from \(there ?? "none")",
                "ALTER TABLE ... \(here == nil ? "INHERIT" : "NO INHERIT") on \(target)"))
        }
        if new.key != old.key {
            let ours = old.key.joined(separator: ", "), theirs = new.key.joined(separator: ", ")
            found.append(Preflight.blocking(
                place, "has primary key (\(theirs)), on \(source) it is (\(ours))", "Give both the same primary key"))
        }
        for column in old.columns {
            guard let twin = new.column(column.name) else {
                found.append(Preflight.blocking(
                    place, "lacks the column \(column.name) \(column.type)", "ALTER TABLE ... ADD COLUMN"))
                continue
            }
            if twin.type != column.type && !isKeyHeld(column, by: twin, of: old) {
                found.append(Preflight.blocking(
                    "\(place).\(column.name)", "is \(twin.type), on \(source) it is \(column.type)",
                    "Give both the same type" + (old.view == nil ? "" : ", or name it in mirror.tables for a cast")))
            }
            // Of two rows of the source the second would take the first one's place.
            if twin.isLoose && !column.isLoose && old.key.contains(column.name) {
                found.append(Preflight.blocking(
                    "\(place).\(column.name)",
                    "has a collation that takes different keys for the same, which on \(source) it has not",
                    "Give both the same collation"))
            }
            if twin.isGenerated && !column.isGenerated {
                found.append(Preflight.blocking(
                    "\(place).\(column.name)", "is generated, on \(source) it is an ordinary column",
                    "ALTER TABLE ... ALTER COLUMN ... DROP EXPRESSION on \(target)"))
            }
            if twin.isNotNull && !column.isNotNull {
                found.append(Preflight.blocking(
                    "\(place).\(column.name)", "is NOT NULL, on \(source) it may be NULL",
                    "Drop NOT NULL on \(target)"))
            }
        }
        for column in new.columns where old.column(column.name) == nil {
            if column.isNotNull && !column.hasDefault && column.identity == .none && !column.isGenerated {
                found.append(Preflight.blocking(
                    "\(place).\(column.name)", "is NOT NULL without default and \(source) has no such column",
                    "Give it a default"))
            } else {
                found.append(Preflight.note(
                    "\(place).\(column.name)", "exists only on \(target)", "It keeps its default in mirrored rows"))
            }
        }
        if new.otherUniqueIndexes > old.otherUniqueIndexes {
            found.append(Preflight.note(
                place, "has more unique or exclusion constraints than on \(source)",
                "Rows that \(source) allows may be refused: make sure that they cannot"))
        }
        return found
    }

    /// A mapped key may go to another type in which its values have the same texts and the same order. What does not
    /// fit into a narrower one is refused when it comes.
    private static func isKeyHeld(
        _ column: TableDescription.Column, by twin: TableDescription.Column, of table: TableDescription
    ) -> Bool {
        guard table.view != nil, table.key.contains(column.name) else { return false }
        return TableDescription.Column.family(of: column.type) == TableDescription.Column.family(of: twin.type)
    }
}
