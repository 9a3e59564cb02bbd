//! `crdb version`.

/// Version of the binary as nodes tell it to each other.
pub(crate) fn build_tag() -> String {
    format!("v{}", env!("CARGO_PKG_VERSION"))
}

/// One line on what was built.
pub(crate) fn build_line() -> String {
    let kind = if cfg!(debug_assertions) { "debug" } else { "release" };
    format!("crdb {} ({}-{}, {kind})", build_tag(), std::env::consts::ARCH, std::env::consts::OS)
}

/// The text `crdb version` prints.
pub(crate) fn text() -> String {
    let kind = if cfg!(debug_assertions) { "development" } else { "release" };
    let mut text = format!(
        "Build Tag:        {}\nDistribution:     crdb\nPlatform:         {} {}\nBuild Type:       {kind}\n",
        build_tag(),
        std::env::consts::OS,
        std::env::consts::ARCH,
    );
    // A build for tests says so: it is not to be used.
    let features = [
        ("test-clock", cfg!(feature = "test-clock")),
        ("planted-bugs", cfg!(feature = "planted-bugs")),
    ];
    let features: Vec<&str> =
        features.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect();
    if !features.is_empty() {
        text.push_str(&format!("Test features:    {}\n", features.join(" ")));
    }
    text
}
