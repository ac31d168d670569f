use std::collections::BTreeMap;

use ndarray::ArrayView2;

use crate::{AssignError, Assigner, Assignment, Exact, Problem};

/// The optimum inside blocks of consecutive images (of a group, if there are groups), which choose among their own noises
/// only. Time and memory grow with B · `size` in place of B², and about a fifth of the gain is lost at 128 of 1,024. A pool must have a multiple of B noises.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// Images of a block; the last one of a group may have fewer. 0 counts as 1.
    pub size: usize,
}

impl Default for Blocks {
    /// 128, the smallest batch of the paper.
    fn default() -> Self {
        Self { size: 128 }
    }
}

impl Blocks {
    /// The block of each image.
    fn of(&self, images: usize, groups: Option<&[u32]>) -> Vec<u32> {
        let mut seen = BTreeMap::<u32, usize>::new();
        let mut numbers = BTreeMap::<(u32, usize), u32>::new();
        (0..images)
            .map(|i| {
                let group = groups.and_then(|groups| groups.get(i)).copied().unwrap_or(0);
                let before = seen.entry(group).or_default();
                let block = (group, *before / self.size.max(1));
                *before += 1;
                let next = numbers.len() as u32;
                *numbers.entry(block).or_insert(next)
            })
            .collect()
    }
}

impl Assigner for Blocks {
    fn name(&self) -> &'static str {
        "blocks"
    }

    fn shares_noise(&self) -> bool {
        true
    }

    fn assign(&self, problem: &Problem) -> Result<Assignment, AssignError> {
        check(problem.images.nrows(), problem.groups)?;
        let blocks = self.of(problem.images.nrows(), problem.groups);
        self.bounded_by_blocks(Exact.assign(&problem.in_groups(&blocks)))
    }

    fn solve(&self, cost: ArrayView2<f32>, groups: Option<&[u32]>) -> Result<Assignment, AssignError> {
        check(cost.nrows(), groups)?;
        let blocks = self.of(cost.nrows(), groups);
        self.bounded_by_blocks(Exact.solve(cost, Some(&blocks)))
    }
}

impl Blocks {
    /// What is proven of the blocks is not proven of the batch.
    fn bounded_by_blocks(&self, solved: Result<Assignment, AssignError>) -> Result<Assignment, AssignError> {
        solved.map(|assignment| Assignment { lower_bound: None, ..assignment })
    }
}

fn check(images: usize, groups: Option<&[u32]>) -> Result<(), AssignError> {
    match groups {
        Some(groups) if groups.len() != images => Err(AssignError::ShapeMismatch {
            what: "groups",
            expected: vec![images],
            found: vec![groups.len()],
        }),
        _ => Ok(()),
    }
}
