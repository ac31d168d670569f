use ndarray::ArrayView2;

use crate::{Approximate, AssignError, Assignment, Blocks, Exact, Greedy, Knn, Lapjv, Problem, Sinkhorn};

/// A way to choose which noise each image takes.
///
/// Whatever the assigner, the answer never costs more than the identity (every image keeps the noise drawn for it),
/// is the identity if it costs the same, and does not depend on the number of threads. An empty batch gets an empty
/// answer.
pub trait Assigner: Send + Sync {
    /// The name in the registry and in configurations.
    fn name(&self) -> &'static str;

    /// Whether all images share one set of noises ([`Candidates::Shared`](crate::Candidates::Shared)). If not, each has
    /// candidates of its own ([`Candidates::PerImage`](crate::Candidates::PerImage)).
    fn shares_noise(&self) -> bool;

    /// Chooses a noise for every image of `problem`.
    ///
    /// # Errors
    /// If shapes do not fit each other or this assigner, or if a value is not finite.
    fn assign(&self, problem: &Problem) -> Result<Assignment, AssignError>;

    /// The same from a cost matrix of the caller's own; lower is better.
    ///
    /// # Shapes
    /// `cost` is [B, M] with M ≥ B for assigners that share one set of noises, and [B, k] for those that pick among candidates.
    /// `groups` is as in [`Problem`].
    ///
    /// # Errors
    /// As [`assign`](Self::assign).
    fn solve(&self, cost: ArrayView2<f32>, groups: Option<&[u32]>) -> Result<Assignment, AssignError>;
}

/// Builds an assigner with its default options.
type Build = fn() -> Box<dyn Assigner>;

/// Every assigner by its name, sorted.
pub const ASSIGNERS: &[(&str, Build)] = &[
    ("approximate", || Box::new(Approximate::default())),
    ("blocks", || Box::new(Blocks::default())),
    ("exact", || Box::new(Exact)),
    ("greedy", || Box::new(Greedy)),
    ("knn", || Box::new(Knn)),
    ("lapjv", || Box::new(Lapjv)),
    ("sinkhorn", || Box::new(Sinkhorn::default())),
];

/// The assigner of that name.
///
/// # Errors
/// [`AssignError::UnknownAssigner`], which lists the names there are.
pub fn by_name(name: &str) -> Result<Box<dyn Assigner>, AssignError> {
    ASSIGNERS.iter().find(|(known, _)| *known == name).map(|(_, build)| build()).ok_or_else(|| {
        let known: Vec<_> = ASSIGNERS.iter().map(|(known, _)| *known).collect();
        AssignError::UnknownAssigner { name: name.into(), known: known.join(", ") }
    })
}
