@testable import SQLAnalysis

/// One text through a fresh cache.
func analysed(
    _ text: String, facts: CatalogFacts = .builtIn, plan: KeyPlan = KeyPlan([.comment("user_id")])
) -> Analysis {
    let cache = AnalysisCache(facts: facts, keyPlan: plan, seed: 7)
    return Array(text.utf8).withUnsafeBytes { cache.analyse($0) }
}

extension AnalysisCache {
    func analyse(_ text: String) -> Analysis { Array(text.utf8).withUnsafeBytes { analyse($0) } }
}
