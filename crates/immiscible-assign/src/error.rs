/// Why no assignment was made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum AssignError {
    /// A value that is not a number, or infinite: a solver would answer with nonsense.
    #[error("{what} holds {value} at row {row}, column {column}: every value must be finite")]
    NonFinite {
        /// "images", "candidates" (per image: as [B·k, D]) or "cost".
        what: &'static str,
        /// Its row, from 0.
        row: usize,
        /// Its column, from 0.
        column: usize,
        /// The value.
        value: f32,
    },
    /// A value that half precision turns into infinity.
    #[error(
        "{what} holds {value} at row {row}, column {column}: half precision ends at 65504; use another precision"
    )]
    BeyondHalf {
        /// "images" or "candidates".
        what: &'static str,
        /// Its row, from 0.
        row: usize,
        /// Its column, from 0.
        column: usize,
        /// The value.
        value: f32,
    },
    /// Half precision of a cost that the paper's code does not have.
    #[error(
        "half precision is that of the paper's L2 distance: use the cost l2 in place of {cost}, or another precision"
    )]
    HalfIsL2 {
        /// The cost.
        cost: &'static str,
    },
    /// Arrays whose sizes do not fit each other.
    #[error("{what} has the shape {found:?}, but {expected:?} is needed here")]
    ShapeMismatch {
        /// The array.
        what: &'static str,
        /// The shape that the other arrays ask for.
        expected: Vec<usize>,
        /// The shape it has.
        found: Vec<usize>,
    },
    /// Fewer noises than images, for an assigner that gives every image one of its own.
    #[error(
        "\"{assigner}\" gives every image a noise of its own: {images} images need as many noises, not {noises}"
    )]
    TooFewNoises {
        /// The assigner.
        assigner: &'static str,
        /// Number of images.
        images: usize,
        /// Number of noises.
        noises: usize,
    },
    /// A pool that cannot be divided among groups.
    #[error(
        "noise j of a pool belongs to the group of image j mod {images}: with groups, a pool has a multiple of {images} \
         noises, not {noises}"
    )]
    UnevenPool {
        /// Number of images.
        images: usize,
        /// Number of noises.
        noises: usize,
    },
    /// Candidates per image, for an assigner that shares one set of noises among the images.
    #[error(
        "\"{assigner}\" shares one set of noises among all images: pass Candidates::Shared, or use \"knn\""
    )]
    NeedsShared {
        /// The assigner.
        assigner: &'static str,
    },
    /// One shared set of noises, for an assigner that picks among an image's own candidates.
    #[error(
        "\"{assigner}\" picks among candidates drawn for each image, so that no two images take the same noise: pass \
         Candidates::PerImage, or use \"exact\" to share one set"
    )]
    NeedsPerImage {
        /// The assigner.
        assigner: &'static str,
    },
    /// A solver gave up, or answered with something that is no assignment.
    #[error("\"{assigner}\" found no assignment: {reason}")]
    Solver {
        /// The assigner.
        assigner: &'static str,
        /// What it said.
        reason: String,
    },
    /// A name that is not in the registry.
    #[error("there is no assigner \"{name}\": the assigners are {known}")]
    UnknownAssigner {
        /// The name.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A name that is no [`Cost`](crate::Cost).
    #[error("there is no cost \"{name}\": the costs are dot, squared_l2, l2, l1")]
    UnknownCost {
        /// The name.
        name: String,
    },
}
