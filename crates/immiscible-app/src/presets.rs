//! Built-in configs, each an experiment record: what it is, what it takes, what to expect.

/// Every preset by name, sorted.
pub(crate) const PRESETS: &[(&str, &str)] = &[
    ("celeba64-consistency", include_str!("../presets/celeba64-consistency.toml")),
    ("cifar10-consistency", include_str!("../presets/cifar10-consistency.toml")),
    ("cifar10-consistency-knn", include_str!("../presets/cifar10-consistency-knn.toml")),
    ("cifar10-ddim", include_str!("../presets/cifar10-ddim.toml")),
    ("cifar10-ddim-flip", include_str!("../presets/cifar10-ddim-flip.toml")),
    ("cifar10-ddim-knn", include_str!("../presets/cifar10-ddim-knn.toml")),
    ("cifar10-ddim-l1", include_str!("../presets/cifar10-ddim-l1.toml")),
    ("cifar10-ddim-scaled", include_str!("../presets/cifar10-ddim-scaled.toml")),
    ("cifar10-flow", include_str!("../presets/cifar10-flow.toml")),
    ("cifar10-flow-assignment", include_str!("../presets/cifar10-flow-assignment.toml")),
    ("digits", include_str!("../presets/digits.toml")),
    ("digits-classes", include_str!("../presets/digits-classes.toml")),
    ("fashion-mnist", include_str!("../presets/fashion-mnist.toml")),
    ("folder", include_str!("../presets/folder.toml")),
    ("latent-unconditional-256", include_str!("../presets/latent-unconditional-256.toml")),
    ("sd-class-finetune-256", include_str!("../presets/sd-class-finetune-256.toml")),
    ("sd-class-finetune-256-knn", include_str!("../presets/sd-class-finetune-256-knn.toml")),
    ("sd-class-scratch-256", include_str!("../presets/sd-class-scratch-256.toml")),
    ("sd-class-scratch-256-knn", include_str!("../presets/sd-class-scratch-256-knn.toml")),
    ("tiny-imagenet-consistency", include_str!("../presets/tiny-imagenet-consistency.toml")),
];
