// swift-tools-version: 6.2
import Foundation
import PackageDescription

/// What every Swift target of ours is compiled with: language mode 6, warnings as errors.
let strict: [SwiftSetting] = [
    .swiftLanguageMode(.v6),
    .treatAllWarnings(as: .error),
    .enableUpcomingFeature("ExistentialAny"),
    .enableUpcomingFeature("MemberImportVisibility"),
]

/// What runs for every message: exclusive access is proven by the tests' debug builds and not checked again in release,
/// where the checks are about half of all instructions of ours.
let hot: [SwiftSetting] = strict + [
    .unsafeFlags(["-enforce-exclusivity=unchecked"], .when(configuration: .release))
]

/// A target of ours; `Tests/<name>Tests` mirrors it.
func floor(
    _ name: String, _ dependencies: [Target.Dependency], isHot: Bool = false, resources: [Resource] = []
) -> Target {
    .target(name: name, dependencies: dependencies, resources: resources, swiftSettings: isHot ? hot : strict)
}

func tests(_ name: String, _ dependencies: [Target.Dependency]) -> Target {
    .testTarget(name: name, dependencies: dependencies, swiftSettings: strict)
}

let yams: Target.Dependency = .product(name: "Yams", package: "Yams")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let histogram: Target.Dependency = .product(name: "Histogram", package: "hdrhistogram-swift")
let grdb: Target.Dependency = .product(name: "GRDB", package: "GRDB.swift")
/// A module of its dependencies has the name of one of ours.
let hummingbird: Target.Dependency = .product(
    name: "Hummingbird", package: "hummingbird", moduleAliases: ["Configuration": "HummingbirdConfiguration"])
let hummingbirdCore: Target.Dependency = .product(
    name: "HummingbirdCore", package: "hummingbird", moduleAliases: ["Configuration": "HummingbirdConfiguration"])
let nioCore: Target.Dependency = .product(name: "NIOCore", package: "swift-nio")
let nioPosix: Target.Dependency = .product(name: "NIOPosix", package: "swift-nio")
let nioEmbedded: Target.Dependency = .product(name: "NIOEmbedded", package: "swift-nio")
let nioHTTP1: Target.Dependency = .product(name: "NIOHTTP1", package: "swift-nio")
let nioHTTPTypes: Target.Dependency = .product(name: "NIOHTTPTypes", package: "swift-nio-extras")
let httpTypes: Target.Dependency = .product(name: "HTTPTypes", package: "swift-http-types")
let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")

/// The fuzzer is only for `make fuzz`: it needs a sanitizer's runtime.
let fuzzer: [Target] = ProcessInfo.processInfo.environment["GODWIT_FUZZ"] == nil ? [] : [
    .executableTarget(
        name: "godwit-fuzz", dependencies: ["FuzzTargets"], path: "Tests/Fuzzer", swiftSettings: strict)
]

let package = Package(
    name: "godwit",
    products: [
        .executable(name: "godwit", targets: ["godwit"]),
        .executable(name: "loadtest", targets: ["loadtest"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.0"),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.0"),
        .package(url: "https://github.com/HdrHistogram/hdrhistogram-swift", from: "0.2.0"),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.0"),
        .package(url: "https://github.com/apple/swift-nio-extras", from: "1.35.0"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
    ],
    targets: [
        // C shims: what Swift cannot import by itself.
        .target(name: "CEpoll"),
        .systemLibrary(name: "COpenSSL", pkgConfig: "openssl", providers: [.apt(["libssl-dev"])]),
        .systemLibrary(name: "CPgQuery", providers: [.apt(["libpg-query-dev"])]),
        .systemLibrary(name: "CZstd", pkgConfig: "libzstd", providers: [.apt(["libzstd-dev"])]),
        .systemLibrary(name: "CXXHash", pkgConfig: "libxxhash", providers: [.apt(["libxxhash-dev"])]),
        .systemLibrary(name: "CLibPQ", pkgConfig: "libpq", providers: [.apt(["libpq-dev"])]),

        // Floor 0: values, bytes, grammar, settings, readiness.
        floor("Primitives", ["CEpoll"]),
        floor("Digests", ["COpenSSL"]),
        floor("PGWire", ["Primitives", "Digests"], isHot: true),
        floor("SQLAnalysis", ["Primitives", "CPgQuery"], isHot: true),
        floor("Configuration", ["Primitives", "Digests", yams]),
        floor("Reactor", ["Primitives", "CEpoll", "COpenSSL"], isHot: true),
        floor("LibPQ", ["Primitives", "CLibPQ", "COpenSSL"]),

        // Floor 1: pure state machines.
        floor("Sessions", ["Primitives", "Digests", "PGWire", "SQLAnalysis", "Configuration"], isHot: true),
        floor("Pooling", ["Primitives"], isHot: true),
        floor("Routing", ["Primitives", "Digests", "SQLAnalysis", "Configuration"], isHot: true),
        floor("Migration", ["Primitives", "Configuration"]),
        floor("Capture", ["Primitives", "Digests", "PGWire", "SQLAnalysis", "CZstd", "CXXHash"], isHot: true),
        floor("Console", ["Primitives", "PGWire"]),
        floor("Shadowing", ["Primitives", "SQLAnalysis"]),

        // Floor 2: threads, sockets, libpq: what performs actions.
        floor("Proxy", [
            "Primitives", "Digests", "PGWire", "SQLAnalysis", "Configuration", "Reactor",
            "Sessions", "Pooling", "Routing", "Console", "Capture", "Shadowing", logging,
        ], isHot: true),
        floor("Mirroring", ["Primitives", "Migration", "LibPQ", logging]),
        floor("Verification", ["Primitives", "SQLAnalysis", "LibPQ", "Shadowing", logging]),
        floor("Lifecycle", ["Primitives", "Digests", "Configuration", "Reactor", "CEpoll", logging]),
        floor("ControlPlane", [
            "Primitives", "Digests", "Configuration", "Migration", "LibPQ", "Reactor", "CEpoll", logging, grdb,
            hummingbird, hummingbirdCore, nioCore, nioPosix, nioEmbedded, nioHTTP1, nioHTTPTypes, httpTypes,
        ], resources: [.embedInCode("openapi.yaml")]),

        // The load tester: what is played and what comes of it (pure), connections and the clock, and the program.
        .target(
            name: "Replay",
            dependencies: ["Primitives", "PGWire", "SQLAnalysis", "Capture", histogram, yams],
            path: "loadtest/Replay", swiftSettings: strict),
        .target(
            name: "ReplayEngine",
            dependencies: ["Primitives", "PGWire", "Capture", "Reactor", "LibPQ", "Replay", "CEpoll"],
            path: "loadtest/Engine", swiftSettings: strict),
        .executableTarget(
            name: "loadtest",
            dependencies: [
                "Primitives", "PGWire", "Capture", "LibPQ", "Replay", "ReplayEngine", arguments,
            ],
            path: "loadtest/Command", swiftSettings: strict),

        // Floor 3: assemble, parse arguments, nothing else.
        .executableTarget(
            name: "godwit",
            dependencies: [
                "Primitives", "Digests", "PGWire", "Configuration", "Reactor", "LibPQ", "SQLAnalysis", "Sessions", "Routing",
                "Console", "Capture", "Shadowing", "Proxy", "Migration", "Mirroring", "Verification", "ControlPlane", "Lifecycle",
                arguments, logging,
            ],
            swiftSettings: strict),

        // Measuring and testing of analysis, routing and configuration.
        .executableTarget(
            name: "analysis-bench", dependencies: ["Primitives", "SQLAnalysis", "Routing"], path: "loadtest/bench",
            swiftSettings: strict),
        tests("SQLAnalysisTests", ["SQLAnalysis", "Primitives"]),
        tests("RoutingTests", ["Routing", "SQLAnalysis", "Configuration", "Primitives"]),
        tests("ConfigurationTests", ["Configuration", "Digests", "Primitives"]),
        tests("TidyTests", ["Configuration", "Primitives"]),

        // Real servers, processes and a scripted client for the tests.
        .target(name: "TestSupport", path: "Tests/TestSupport", swiftSettings: strict),
        tests("TestSupportTests", ["TestSupport"]),
        tests("PrimitivesTests", ["Primitives"]),
        tests("DigestsTests", ["Digests"]),
        tests("PGWireTests", ["PGWire", "SQLAnalysis", "Digests", "Primitives"]),
        tests("SessionsTests", ["Sessions", "PGWire", "SQLAnalysis", "Digests", "Configuration", "Primitives"]),
        tests("MigrationTests", ["Migration", "Configuration", "Primitives"]),
        tests("PoolingTests", ["Pooling", "Primitives"]),
        tests("ReactorTests", ["Reactor", "Primitives", "CEpoll", "COpenSSL", "TestSupport"]),
        tests("CaptureTests", ["Capture", "PGWire", "SQLAnalysis", "Primitives"]),
        tests("ReplayTests", ["Replay", "Capture", "PGWire", "SQLAnalysis"]),
        tests("ConsoleTests", ["Console", "PGWire", "Primitives"]),
        tests("ShadowingTests", ["Shadowing", "SQLAnalysis", "Primitives"]),
        tests("ControlPlaneTests", [
            "ControlPlane", "Configuration", "Migration", "Primitives", "TestSupport", "Reactor", "LibPQ", logging,
        ]),
        tests("LifecycleTests", ["Lifecycle", "Configuration", "Primitives", "Reactor", logging]),
        tests("LibPQTests", ["LibPQ", "Primitives", "TestSupport"]),
        tests("MirroringTests", ["Mirroring", "Migration", "LibPQ", "Primitives", "TestSupport", logging]),
        tests("VerificationTests", ["Verification", "Mirroring", "LibPQ", "Primitives", "TestSupport", logging]),

        // What parses untrusted bytes: the fuzzer's targets, and a test that runs them over all that was found.
        .target(
            name: "FuzzTargets",
            dependencies: [
                "PGWire", "Sessions", "SQLAnalysis", "Configuration", "Digests", "Primitives", "Capture", "Replay",
            ],
            path: "Tests/FuzzTargets", swiftSettings: strict),
        tests("FuzzCorpusTests", ["FuzzTargets"]),

        // `godwit` is a dependency so that its executable is built before.
        .testTarget(
            name: "EndToEndTests",
            dependencies: ["TestSupport", "Primitives", "Capture", "Console", "PGWire", "SQLAnalysis", "godwit", "loadtest"],
            exclude: ["Drivers"], swiftSettings: strict),
    ] + fuzzer
)
