import CPgQuery

// unsafe, all of this file: libpg_query hands out C structs; they are read in place and freed before the call returns.

/// The grammar's tree of one text, walked through protobuf-c's own description of its messages, so that no node type
/// can be forgotten: what is not named in `NodeKind` is visited all the same, as `other`. Lives within one call.
enum SyntaxTree {
    typealias Message = UnsafePointer<ProtobufCMessage>

    enum Failure: Error { case refused }

    /// Parses and hands each statement's node to `visit`, and the offset behind its last byte: the next semicolon's.
    static func parse(
        _ text: UnsafeRawBufferPointer, _ visit: (Message, _ end: Int) -> Void
    ) throws(Failure) {
        let isParsed = withUnsafeTemporaryAllocation(byteCount: text.count + 1, alignment: 1) { copy -> Bool in
            copy.copyMemory(from: text)
            copy[text.count] = 0                     // the grammar reads up to a NUL
            guard let start = copy.baseAddress else { return false }
            let result = pg_query_parse_protobuf(start.assumingMemoryBound(to: CChar.self))
            defer { pg_query_free_protobuf_parse_result(result) }
            guard result.error == nil, let data = result.parse_tree.data else { return false }
            let bytes = UnsafeRawPointer(data).assumingMemoryBound(to: UInt8.self)
            guard let tree = pg_query__parse_result__unpack(nil, result.parse_tree.len, bytes) else { return false }
            defer { pg_query__parse_result__free_unpacked(tree, nil) }
            for index in 0..<tree.pointee.n_stmts {
                guard let raw = tree.pointee.stmts[index], let node = raw.pointee.stmt,
                    let statement = content(of: node)
                else { return false }
                let (start, length) = (Int(raw.pointee.stmt_location), Int(raw.pointee.stmt_len))
                visit(statement, length == 0 ? text.count : start + length)
            }
            return true
        }
        if !isParsed { throw .refused }
    }

    /// The message in a `Node`'s union.
    static func content(of node: UnsafePointer<PgQuery__Node>) -> Message? {
        guard node.pointee.node_case != PG_QUERY__NODE__NODE__NOT_SET else { return nil }
        return UnsafePointer(OpaquePointer(node.pointee.alias))
    }

    static func content(of node: UnsafeMutablePointer<PgQuery__Node>?) -> Message? {
        node.flatMap { content(of: UnsafePointer($0)) }
    }

    static func cast<Target>(_ message: Message, to type: Target.Type) -> UnsafePointer<Target> {
        UnsafeRawPointer(message).assumingMemoryBound(to: type)
    }

    static func message(_ pointer: UnsafeRawPointer?) -> Message? {
        pointer?.assumingMemoryBound(to: ProtobufCMessage.self)
    }

    static func string(_ pointer: UnsafePointer<CChar>?) -> String {
        pointer.map { String(cString: $0) } ?? ""
    }

    /// Calls `visit` for each message directly below, in the order of the fields. A `Node` is looked through.
    static func forEachChild(of message: Message, _ visit: (Message) -> Void) {
        guard let descriptor = message.pointee.descriptor else { return }
        let base = UnsafeRawPointer(message)
        for index in 0..<Int(descriptor.pointee.n_fields) {
            let field = descriptor.pointee.fields[index]
            guard field.type == PROTOBUF_C_TYPE_MESSAGE else { continue }
            if field.label == PROTOBUF_C_LABEL_REPEATED {
                let count = base.load(fromByteOffset: Int(field.quantifier_offset), as: Int.self)
                guard count > 0,
                    let list = base.load(fromByteOffset: Int(field.offset), as: UnsafePointer<Message?>?.self)
                else { continue }
                for place in 0..<count {
                    if let child = list[place].flatMap(through) { visit(child) }
                }
            } else {
                // A union's pointer counts only when its case says so.
                if field.flags & UInt32(PROTOBUF_C_FIELD_FLAG_ONEOF.rawValue) != 0,
                    base.load(fromByteOffset: Int(field.quantifier_offset), as: UInt32.self) != field.id
                {
                    continue
                }
                if let child = base.load(fromByteOffset: Int(field.offset), as: Message?.self).flatMap(through) {
                    visit(child)
                }
            }
        }
    }

    /// nil for a node that holds nothing: the grammar's NULL in a list (DISTINCT without ON, ROWS FROM).
    private static func through(_ message: Message) -> Message? {
        isNode(message) ? content(of: cast(message, to: PgQuery__Node.self)) : message
    }

    private static func isNode(_ message: Message) -> Bool {
        guard let descriptor = message.pointee.descriptor else { return false }
        return descriptor.pointee.sizeof_message == MemoryLayout<PgQuery__Node>.size
            && name(of: descriptor) == "Node"
    }

    /// `SelectStmt`, `A_Const`: the grammar's own name.
    static func name(of descriptor: UnsafePointer<ProtobufCMessageDescriptor>) -> String {
        let full = string(descriptor.pointee.name)
        return full.split(separator: ".").last.map(String.init) ?? full
    }
}

extension SyntaxTree {
    /// The strings of a list of `String` nodes: a qualified name. What is no string is left out.
    static func strings(_ list: UnsafeMutablePointer<UnsafeMutablePointer<PgQuery__Node>?>?, _ count: Int) -> [String] {
        guard let list else { return [] }
        return (0..<count).compactMap { index in stringValue(list[index]) }
    }

    static func stringValue(_ node: UnsafeMutablePointer<PgQuery__Node>?) -> String? {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_STRING, let value = node.pointee.string
        else { return nil }
        return string(value.pointee.sval)
    }

    /// The text of a constant: strings without quotes, numbers as written.
    /// The n of `$n`; nil: it is something else.
    static func parameter(_ node: UnsafeMutablePointer<PgQuery__Node>?) -> Int? {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_PARAM_REF else { return nil }
        return node.pointee.param_ref.map { Int($0.pointee.number) }
    }

    static func constant(_ node: UnsafeMutablePointer<PgQuery__Node>?) -> String? {
        guard let node, node.pointee.node_case == PG_QUERY__NODE__NODE_A_CONST, let value = node.pointee.a_const
        else { return nil }
        switch value.pointee.val_case {
        case PG_QUERY__A__CONST__VAL_IVAL: return value.pointee.ival.map { String($0.pointee.ival) }
        case PG_QUERY__A__CONST__VAL_FVAL: return value.pointee.fval.map { string($0.pointee.fval) }
        case PG_QUERY__A__CONST__VAL_SVAL: return value.pointee.sval.map { string($0.pointee.sval) }
        case PG_QUERY__A__CONST__VAL_BOOLVAL:
            return value.pointee.boolval.map { $0.pointee.boolval != 0 ? "true" : "false" }
        default: return nil
        }
    }
}
