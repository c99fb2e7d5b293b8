/// PostgreSQL's own functions, sorted by what a call means for routing. Immutable, any thread.
///
/// Made from pg_proc of PostgreSQL 15 (immutable and stable ones that are meant to be called), read by eye, with the
/// newer versions' added. What is in none of the lists is unknown, and a call of it a write.
enum BuiltinFunctions {
    enum Verdict: Sendable, Equatable {
        /// The same answer on both sides, no effect.
        case harmless
        /// No effect, but an answer that belongs to one server.
        case serverState
        /// Has an effect, or runs SQL or files we do not see.
        case harmful
    }

    /// nil: not one of ours.
    static func verdict(_ name: String) -> Verdict? {
        if harmless.contains(name) || volatileButHarmless.contains(name) { return .harmless }
        if harmful.contains(name) || harmfulPrefixes.contains(where: name.hasPrefix) { return .harmful }
        if serverState.contains(name) || serverStatePrefixes.contains(where: name.hasPrefix) { return .serverState }
        return nil
    }

    /// Types that name objects by numbers which differ from database to database; also callable as functions.
    static let identifierTypes: Set<String> = [
        "oid", "regclass", "regtype", "regproc", "regprocedure", "regoper", "regoperator", "regnamespace", "regrole",
        "regconfig", "regdictionary", "regcollation", "xid", "xid8", "cid", "tid", "pg_snapshot", "txid_snapshot",
    ]

    /// Volatile by the catalog, and yet nothing but a value.
    private static let volatileButHarmless: Set<String> = [
        "random", "random_normal", "clock_timestamp", "timeofday", "gen_random_uuid", "uuidv4", "uuidv7", "pg_sleep",
        "pg_sleep_for", "pg_sleep_until", "array_shuffle", "array_sample",
    ]

    /// Effects, however they are declared: sequences, settings, locks, files, notifications, and SQL in strings.
    private static let harmful: Set<String> = [
        "nextval", "setval", "set_config", "setseed", "pg_notify", "pg_export_snapshot", "pg_sync_replication_slots",
        "query_to_xml", "query_to_xmlschema", "query_to_xml_and_xmlschema", "cursor_to_xml", "cursor_to_xmlschema",
        "table_to_xml", "table_to_xmlschema", "table_to_xml_and_xmlschema", "schema_to_xml", "schema_to_xmlschema",
        "schema_to_xml_and_xmlschema", "database_to_xml", "database_to_xmlschema", "database_to_xml_and_xmlschema",
        "ts_stat", "ts_rewrite", "xpath_table", "connectby", "loread", "lowrite", "pg_nextoid", "pg_promote",
        "pg_reload_conf", "pg_rotate_logfile", "pg_switch_wal", "pg_cancel_backend", "pg_terminate_backend",
        "pg_log_backend_memory_contexts", "pg_logical_emit_message", "pg_import_system_collations",
        "pg_backup_start", "pg_backup_stop", "pg_start_backup", "pg_stop_backup", "pg_create_restore_point",
        "pg_wal_replay_pause", "pg_wal_replay_resume", "pg_extension_config_dump", "pg_stat_force_next_flush",
        "pg_stat_clear_snapshot", "pg_restore_relation_stats", "pg_restore_attribute_stats",
        "pg_clear_relation_stats", "pg_clear_attribute_stats", "pg_stop_making_pinned_objects",
    ]
    private static let harmfulPrefixes = [
        "pg_advisory_", "pg_try_advisory_", "lo_", "dblink", "crosstab", "pg_read_", "pg_ls_", "pg_stat_reset",
        "pg_replication_origin_", "pg_replication_slot_", "pg_create_", "pg_drop_", "pg_copy_", "pg_logical_slot_",
        "pg_file_", "binary_upgrade_", "brin_", "gin_",
    ]

    /// Everything else of PostgreSQL's that looks at itself: catalogs, sizes, backends, transaction ids, sequences.
    private static let serverState = names(serverStateNames).union(identifierTypes)
    private static let serverStatePrefixes = ["pg_get_", "pg_stat_get_"]
    private static let harmless = names(harmlessNames)

    private static func names(_ text: String) -> Set<String> {
        Set(text.split(whereSeparator: \.isWhitespace).map(String.init))
    }

    private static let serverStateNames = """
        amvalidate col_description current_database current_query currtid2 currval format_type getpgusername
        has_any_column_privilege has_column_privilege has_database_privilege
        has_foreign_data_wrapper_privilege has_function_privilege has_language_privilege
        has_largeobject_privilege has_parameter_privilege has_schema_privilege has_sequence_privilege
        has_server_privilege has_table_privilege has_tablespace_privilege has_type_privilege
        inet_client_addr inet_client_port inet_server_addr inet_server_port lastval mxid_age obj_description
        oidvectortypes pg_available_extension_versions pg_available_extensions pg_available_wal_summaries
        pg_backend_pid pg_basetype pg_blocking_pids pg_collation_actual_version pg_collation_is_visible
        pg_column_compression pg_column_is_updatable pg_column_size pg_conf_load_time pg_config
        pg_control_checkpoint pg_control_init pg_control_recovery pg_control_system pg_conversion_is_visible
        pg_current_logfile pg_current_snapshot pg_current_wal_flush_lsn pg_current_wal_insert_lsn
        pg_current_wal_lsn pg_current_xact_id pg_current_xact_id_if_assigned pg_cursor
        pg_database_collation_actual_version pg_database_size pg_describe_object
        pg_event_trigger_ddl_commands pg_event_trigger_dropped_objects pg_event_trigger_table_rewrite_oid
        pg_event_trigger_table_rewrite_reason pg_extension_update_paths pg_filenode_relation
        pg_function_is_visible pg_has_role pg_hba_file_rules pg_ident_file_mappings pg_identify_object
        pg_identify_object_as_address pg_index_column_has_property pg_index_has_property
        pg_indexam_has_property pg_indexam_progress_phasename pg_indexes_size pg_is_in_recovery
        pg_is_other_temp_schema pg_is_wal_replay_paused pg_is_wal_summary
        pg_isolation_test_session_is_blocked pg_jit_available pg_last_committed_xact pg_last_wal_receive_lsn
        pg_last_wal_replay_lsn pg_last_xact_replay_timestamp pg_listening_channels pg_lock_status
        pg_mcv_list_items pg_my_temp_schema pg_notification_queue_usage pg_numa_available
        pg_opclass_is_visible pg_operator_is_visible pg_opfamily_is_visible pg_options_to_table
        pg_partition_ancestors pg_partition_root pg_partition_tree pg_postmaster_start_time
        pg_prepared_statement pg_prepared_xact pg_relation_filenode pg_relation_filepath
        pg_relation_is_publishable pg_relation_is_updatable pg_relation_size pg_rotate_logfile_old
        pg_safe_snapshot_blocking_pids pg_sequence_last_value pg_sequence_parameters pg_settings_get_flags
        pg_show_all_file_settings pg_show_all_settings pg_show_replication_origin_status pg_snapshot_xip
        pg_snapshot_xmax pg_snapshot_xmin pg_stat_file pg_stat_have_stats pg_statistics_obj_is_visible
        pg_table_is_visible pg_table_size pg_tablespace_databases pg_tablespace_location pg_tablespace_size
        pg_timezone_abbrevs pg_timezone_names pg_total_relation_size pg_trigger_depth
        pg_ts_config_is_visible pg_ts_dict_is_visible pg_ts_parser_is_visible pg_ts_template_is_visible
        pg_type_is_visible pg_visible_in_snapshot pg_wal_summary_contents pg_walfile_name
        pg_walfile_name_offset pg_xact_commit_timestamp pg_xact_commit_timestamp_origin pg_xact_status
        row_security_active shobj_description to_regclass to_regcollation to_regnamespace to_regoper
        to_regoperator to_regproc to_regprocedure to_regrole to_regtype to_regtypemod txid_current
        txid_current_if_assigned txid_current_snapshot txid_snapshot_xip txid_snapshot_xmax
        txid_snapshot_xmin txid_status txid_visible_in_snapshot version
        """
    private static let harmlessNames = """
        abbrev abs acos acosd acosh age any_value area array_agg array_append array_cat array_dims
        array_fill array_length array_lower array_ndims array_position array_positions array_prepend
        array_remove array_replace array_reverse array_sort array_to_json array_to_string array_to_tsvector
        array_upper ascii asin asind asinh atan atan2 atan2d atand atanh avg bit bit_and bit_count
        bit_length bit_or bit_xor bool bool_and bool_or box btrim cardinality casefold cbrt ceil ceiling
        center char char_length character_length chr cidr circle coalesce concat concat_ws convert
        convert_from convert_to corr cos cosd cosh cot cotd count covar_pop covar_samp crc32 crc32c
        cume_dist current_schema current_schemas current_setting current_user date date_add date_bin
        date_part date_subtract date_trunc datemultirange daterange daterange_subdiff decode degrees
        dense_rank dexp diagonal diameter div dlog10 dround dtrunc encode enum_first enum_last enum_range
        erf erfc every exp extract factorial first_value float4 float8 floor format gamma gcd
        generate_series generate_subscripts get_bit get_byte get_current_ts_config getdatabaseencoding
        greatest hashtext hashtextextended height host hostmask initcap int2 int4 int4multirange int4range
        int4range_subdiff int8 int8multirange int8range int8range_subdiff interval is_normalized isclosed
        isempty isfinite ishorizontal isopen isparallel isperp isvertical json_agg json_agg_strict
        json_array json_array_elements json_array_elements_text json_array_length json_arrayagg
        json_build_array json_build_object json_each json_each_text json_exists json_extract_path
        json_extract_path_text json_object json_object_agg json_object_agg_strict json_object_agg_unique
        json_object_agg_unique_strict json_object_keys json_objectagg json_populate_record
        json_populate_recordset json_query json_scalar json_serialize json_strip_nulls json_to_record
        json_to_recordset json_to_tsvector json_typeof json_value jsonb_agg jsonb_agg_strict
        jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
        jsonb_build_object jsonb_concat jsonb_delete jsonb_delete_path jsonb_each jsonb_each_text
        jsonb_extract_path jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_agg
        jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict jsonb_object_keys
        jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query
        jsonb_path_query_array jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz
        jsonb_path_query_tz jsonb_populate_record jsonb_populate_recordset jsonb_pretty jsonb_set
        jsonb_set_lax jsonb_strip_nulls jsonb_to_record jsonb_to_recordset jsonb_to_tsvector jsonb_typeof
        justify_days justify_hours justify_interval lag last_value lcm lead least left length lgamma like
        like_escape line ln log log10 lower lower_inc lower_inf lpad lseg ltrim macaddr macaddr8
        macaddr8_set7bit make_date make_interval make_time make_timestamp make_timestamptz masklen max md5
        min min_scale mod mode money multirange name nameconcatoid netmask network normalize notlike now
        npoints nth_value ntile nullif num_nonnulls num_nulls numeric numeric_div_trunc numeric_exp
        numeric_ln numeric_log numeric_sqrt nummultirange numnode numrange numrange_subdiff octet_length
        overlaps overlay parse_ident path pclose percent_rank percentile_cont percentile_disc
        pg_char_to_encoding pg_client_encoding pg_collation_for pg_encoding_max_length pg_encoding_to_char
        pg_lsn pg_size_bytes pg_size_pretty pg_typeof pg_wal_lsn_diff phraseto_tsquery pi plainto_tsquery
        point polygon popen position pow power querytree quote_ident quote_literal quote_nullable radians
        radius range_agg range_intersect_agg range_merge rank regexp_count regexp_instr regexp_like
        regexp_match regexp_matches regexp_replace regexp_split_to_array regexp_split_to_table regexp_substr
        regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy regr_syy repeat
        replace reverse right round row_number row_to_json rpad rtrim scale session_user set_bit set_byte
        set_masklen setweight sha224 sha256 sha384 sha512 sign similar_escape similar_to_escape sin sind
        sinh slope split_part sqrt starts_with statement_timestamp stddev stddev_pop stddev_samp string_agg
        string_to_array string_to_table strip strpos substr substring sum tan tand tanh text textcat textlen
        time timestamp timestamptz timetz timezone to_ascii to_bin to_char to_date to_hex to_json to_jsonb
        to_number to_oct to_timestamp to_tsquery to_tsvector transaction_timestamp translate trim_array
        trim_scale trunc ts_debug ts_delete ts_filter ts_headline ts_lexize ts_parse ts_rank ts_rank_cd
        ts_token_type tsmultirange tsquery_phrase tsrange tsrange_subdiff tstzmultirange tstzrange
        tstzrange_subdiff tsvector_to_array unistr unnest upper upper_inc upper_inf uuid_extract_timestamp
        uuid_extract_version var_pop var_samp varbit varchar variance websearch_to_tsquery width
        width_bucket xml xml_is_well_formed xml_is_well_formed_content xml_is_well_formed_document xmlagg
        xmlcomment xmlexists xmltext xmlvalidate xpath xpath_exists
        """
}
