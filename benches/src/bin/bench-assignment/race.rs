//! Who runs how often: rounds in which solvers alternate on one matrix, within a budget of time.

use std::collections::HashMap;

use crate::clock::{Sample, time};

/// Rounds at a batch size: enough for a median where runs are short. Slow solvers leave earlier.
pub(crate) fn rounds(batch: usize) -> usize {
    match batch {
        0..=128 => 35,
        129..=256 => 21,
        257..=1_024 => 21,
        1_025..=2_048 => 9,
        _ => 3,
    }
}

/// Batches of images and noises at a batch size, which solvers meet in turn: how long a solver takes differs by a factor of four
/// from one to the next, where few rows are hard.
pub(crate) fn batches(batch: usize) -> usize {
    match batch {
        0..=1_024 => 7,
        1_025..=2_048 => 3,
        _ => 1,
    }
}

/// Nobody repeats for longer than this.
const ENOUGH_MS: f64 = 10_000.0;

/// Keeps out what would take longer than the budget, by its time at the size before and cubic growth.
pub(crate) struct Budget {
    ms: f64,
    last: HashMap<String, (usize, f64)>,
}

impl Budget {
    pub(crate) fn new(ms: f64) -> Self {
        Self { ms, last: HashMap::new() }
    }

    /// For how long a solver is repeated at a batch size.
    pub(crate) fn repeat_ms(&self) -> f64 {
        self.ms.min(ENOUGH_MS)
    }

    /// What `who`, measured or skipped at a smaller size before, is expected to take, where that is above the budget.
    pub(crate) fn refuse(&self, who: &str, batch: usize) -> Option<String> {
        let &(before, ms) = self.last.get(who)?;
        let expected = ms * (batch as f64 / before as f64).powi(3).max(1.0);
        (expected > self.ms)
            .then(|| format!("about {:.1} s expected, the budget is {} s", expected / 1e3, self.ms / 1e3))
    }

    pub(crate) fn record(&mut self, who: &str, batch: usize, ms: f64) {
        self.last.insert(who.to_owned(), (batch, ms));
    }
}

/// Runs `call` for `rounds` or until the budget is used up, at least once.
pub(crate) fn repeat<T>(rounds: usize, budget_ms: f64, mut call: impl FnMut() -> T) -> (T, Vec<Sample>) {
    let (mut value, first) = time(&mut call);
    let (mut samples, mut spent) = (vec![first], first.wall_ms);
    while samples.len() < rounds && spent < budget_ms {
        let (next, sample) = time(&mut call);
        spent += sample.wall_ms;
        samples.push(sample);
        value = next;
    }
    (value, samples)
}

/// The times of a peer, and of ours right before each of its runs.
pub(crate) struct Alternated<T> {
    /// The peer's, round by round.
    pub(crate) answers: Vec<T>,
    pub(crate) peer: Vec<Sample>,
    pub(crate) ours: Vec<Sample>,
}

/// In every round, whose number they are given, each peer runs once, ours right before it; a peer leaves when its budget is used
/// up.
pub(crate) fn alternate<T>(
    rounds: usize,
    budget_ms: f64,
    ours: impl Fn(usize),
    peers: &[Box<dyn Fn(usize) -> T + '_>],
) -> Vec<Alternated<T>> {
    let mut raced: Vec<_> = peers
        .iter()
        .map(|_| Alternated { answers: Vec::new(), peer: Vec::new(), ours: Vec::new() })
        .collect();
    for round in 0..rounds {
        for (peer, raced) in peers.iter().zip(&mut raced) {
            if raced.peer.iter().map(|sample| sample.cpu_ms).sum::<f64>() >= budget_ms {
                continue;
            }
            raced.ours.push(time(|| ours(round)).1);
            let (answer, sample) = time(|| peer(round));
            raced.peer.push(sample);
            raced.answers.push(answer);
        }
    }
    raced
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[test]
    fn what_is_too_slow_is_kept_out() {
        let mut budget = Budget::new(10_000.0);
        assert_eq!(budget.refuse("scipy", 1_024), None, "nothing is known yet");
        budget.record("scipy", 1_024, 1_000.0);
        assert_eq!(budget.refuse("scipy", 2_048), None);
        let refused = budget.refuse("scipy", 4_096);
        assert_eq!(refused.as_deref(), Some("about 64.0 s expected, the budget is 10 s"));
        assert_eq!(budget.refuse("lapjv", 4_096), None);
    }

    #[test]
    fn ours_runs_right_before_every_peer() {
        let order = RefCell::new(Vec::new());
        let run = |name| {
            let order = &order;
            Box::new(move |round: usize| order.borrow_mut().push((name, round))) as Box<dyn Fn(usize)>
        };
        let raced = alternate(2, f64::INFINITY, run("ours"), &[run("a"), run("b")]);
        let rounds = [0, 1].map(|round| ["ours", "a", "ours", "b"].map(|name| (name, round)));
        assert_eq!(order.take(), rounds.concat());
        assert!(raced.iter().all(|raced| raced.peer.len() == 2 && raced.ours.len() == 2));
        let raced = alternate(2, -1.0, run("ours"), &[run("a")]);
        assert_eq!((raced[0].peer.len(), raced[0].answers.len()), (0, 0));
    }

    #[test]
    fn at_least_one_run() {
        let (value, samples) = repeat(5, -1.0, || 7);
        assert_eq!((value, samples.len()), (7, 1));
        assert_eq!(repeat(5, f64::INFINITY, || ()).1.len(), 5);
    }
}
