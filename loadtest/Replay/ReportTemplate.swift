enum ReportTemplate {
    static let head = "<html><body>"
    static let script = ""
}
