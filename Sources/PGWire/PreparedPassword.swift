import Foundation

/// SASLprep (RFC 4013) of passwords, as PostgreSQL does it. No state, any thread.
package enum PreparedPassword {
    /// What goes into the derivation of keys: the prepared password, or its own bytes where it cannot be prepared
    /// (not UTF-8, nothing left of it, a prohibited or unassigned character, mixed directions).
    package static func bytes(_ password: [UInt8]) -> [UInt8] { prepared(password) ?? password }

    package static func bytes(_ password: String) -> [UInt8] { bytes(Array(password.utf8)) }

    /// nil: it cannot be prepared.
    static func prepared(_ password: [UInt8]) -> [UInt8]? {
        if password.allSatisfy({ $0 < 0x80 }) { return password }
        guard let text = String(validating: password, as: UTF8.self) else { return nil }
        var mapped = String.UnicodeScalarView()
        for scalar in text.unicodeScalars {
            if contains(StringPreparationTables.otherSpaces, scalar) {
                mapped.append(" ")
            } else if !contains(StringPreparationTables.mappedToNothing, scalar) {
                mapped.append(scalar)
            }
        }
        // Looked at before normalisation, as PostgreSQL does, though the RFC has it the other way round: both must
        // come to the same keys.
        guard !mapped.isEmpty, mapped.allSatisfy(isAllowed), isOneDirection(mapped) else { return nil }
        return Array(String(mapped).precomposedStringWithCompatibilityMapping.utf8)
    }

    private static func isAllowed(_ scalar: Unicode.Scalar) -> Bool {
        !contains(StringPreparationTables.prohibited, scalar) && !contains(StringPreparationTables.unassigned, scalar)
    }

    /// RFC 3454, section 6: what has a right-to-left character begins and ends with one and has no left-to-right one.
    private static func isOneDirection(_ scalars: String.UnicodeScalarView) -> Bool {
        let rightToLeft = StringPreparationTables.rightToLeft
        guard scalars.contains(where: { contains(rightToLeft, $0) }) else { return true }
        guard let first = scalars.first, let last = scalars.last else { return true }
        return contains(rightToLeft, first) && contains(rightToLeft, last)
            && !scalars.contains { contains(StringPreparationTables.leftToRight, $0) }
    }

    /// Binary search among the ranges' ends.
    private static func contains(_ ranges: [UInt32], _ scalar: Unicode.Scalar) -> Bool {
        var low = 0
        var high = ranges.count / 2
        while low < high {
            let middle = (low + high) / 2
            if scalar.value < ranges[2 * middle] {
                high = middle
            } else if scalar.value > ranges[2 * middle + 1] {
                low = middle + 1
            } else {
                return true
            }
        }
        return false
    }
}
