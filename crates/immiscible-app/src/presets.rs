//! Built-in configs, each an experiment record: what it is, what it takes, what to expect.

/// Every preset by name, sorted.
pub(crate) const PRESETS: &[(&str, &str)] = &[
    ("digits", include_str!("../presets/digits.toml")),
    ("digits-classes", include_str!("../presets/digits-classes.toml")),
    ("fashion-mnist", include_str!("../presets/fashion-mnist.toml")),
    ("folder", include_str!("../presets/folder.toml")),
];
