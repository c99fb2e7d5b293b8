import PGWire
import SQLAnalysis

/// Units that end a READ ONLY transaction on NEW, and go on with what only the authority may run.
///
/// Such a unit is cut behind that end, and each part has a Query or Sync of its own. The client gets one ReadyForQuery
/// all the same: the first part's when that fails, for then nothing of the second may run, else the second's. Within
/// the block a Sync changes nothing but where an error skips to (PROTOCOL-FLOW-EXT-QUERY), and behind it PostgreSQL
/// begins a transaction anew in any case.
extension ClientConnection {
    /// The present unit, which was gathered whole, has an end that it can be cut behind.
    var isCuttable: Bool {
        if !unit.endsWithReady || unit.isStreamed || restOfCut != nil { return false }
        // A Query of several statements, or a batch.
        return unit.executeCount == 0 ? unit.kind == .multiple && unit.statementCount == 1 : unit.cutOffset > 0
    }

    /// - Parameter whole: a unit that is cuttable.
    /// - Returns: nil: it ends nothing, or nothing follows.
    func cut(_ whole: UnsafeRawBufferPointer) -> (first: [UInt8], rest: [UInt8])? {
        var first = MessageWriter()
        if unit.executeCount > 0 {
            first.sync()
            return (whole[..<unit.cutOffset] + first.bytes, Array(whole[unit.cutOffset...]))
        }
        var reader = BodyReader(UnsafeRawBufferPointer(rebasing: whole[FrameHeader.size...]))
        guard let text = reader.cString(), let cut = database?.analysis.cut(text) else { return nil }
        var rest = MessageWriter()
        first.message(FrontendTag.query) { $0.raw(cut.first + [0]) }
        rest.message(FrontendTag.query) { $0.raw(cut.rest + [0]) }
        return (first.bytes, rest.bytes)
    }

    /// The unit at the front of what was kept becomes two.
    func cutUnit() {
        let end = unit.byteCount
        let parts = inbox.withUnsafeBytes { cut(UnsafeRawBufferPointer(rebasing: $0[..<end])) }
        guard let parts else { return refuseOnNew() }
        restOfCut = UInt32(parts.rest.count)
        inbox.replaceSubrange(..<end, with: parts.first + parts.rest)
        startNextUnit()
    }

    /// ReadyForQuery came.
    ///
    /// - Returns: whether it is the first part's, and not for the client.
    func endsFirstPart() -> Bool {
        guard let rest = restOfCut else { return false }
        restOfCut = nil
        if unit.hasFailed { skipUnit(Int(rest)) }
        return !unit.hasFailed
    }
}
