use std::fmt;

/// What a draw is for. Draws of different streams are independent, whatever else they share.
///
/// The numbers are part of every experiment's record: they are never changed and never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream(pub(crate) u16);

impl Stream {
    /// Training noise ε, a row per sample.
    pub const NOISE: Self = Self(1);
    /// Training times t, a row per sample.
    pub const TIME: Self = Self(2);
    /// The order of an epoch; the step of the key is the epoch.
    pub const SHUFFLE: Self = Self(3);
    /// Horizontal flips of images, a row per sample.
    pub const FLIP: Self = Self(4);
    /// Which samples train without their condition (classifier-free guidance), a row per sample.
    pub const CONDITION_DROP: Self = Self(5);
    /// Candidates of KNN beyond the first, which is the sample's own [`NOISE`](Self::NOISE).
    pub const CANDIDATES: Self = Self(6);
    /// Dropout inside the network.
    pub const DROPOUT: Self = Self(7);
    /// Initial weights.
    pub const INIT: Self = Self(8);
    /// The noise that sampling starts from, a row per image.
    pub const PRIOR: Self = Self(9);
    /// The noise that stochastic samplers add on the way, a row per image.
    pub const SAMPLER: Self = Self(10);
    /// Random projections of metrics, a row per projection.
    pub const PROJECTION: Self = Self(11);
    /// Latents from the distribution that an autoencoder gives them, a row per sample.
    pub const LATENT: Self = Self(12);
    /// What a coupling decides for a whole step: row 0 the order of a shuffle, row 1 whether the step is coupled.
    pub const COUPLING: Self = Self(13);
    /// Where images are cropped, a row of two per sample; the step of the key is the epoch.
    pub const CROP: Self = Self(14);
    /// Which sample takes the place of a damaged one, a row per sample.
    pub const REPLACEMENT: Self = Self(15);

    /// The first number of the streams that belong to the caller.
    const CUSTOM: u16 = 1 << 15;

    /// A stream of the caller's own, for `number` below 32,768 (the highest bit is not looked at). No named stream
    /// is equal to it.
    pub const fn custom(number: u16) -> Self {
        Self(Self::CUSTOM | number)
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match *self {
            Self::NOISE => "noise",
            Self::TIME => "time",
            Self::SHUFFLE => "shuffle",
            Self::FLIP => "flip",
            Self::CONDITION_DROP => "condition_drop",
            Self::CANDIDATES => "candidates",
            Self::DROPOUT => "dropout",
            Self::INIT => "init",
            Self::PRIOR => "prior",
            Self::SAMPLER => "sampler",
            Self::PROJECTION => "projection",
            Self::LATENT => "latent",
            Self::COUPLING => "coupling",
            Self::CROP => "crop",
            Self::REPLACEMENT => "replacement",
            Self(number) => return write!(f, "custom({})", number & !Self::CUSTOM),
        };
        f.write_str(name)
    }
}
