//! Images and noises in, permutation out: the exact assigner by precision of the cost and number of threads.

use std::path::Path;

use immiscible_assign::{Assignment, Candidates, Precision, Problem, by_name};
use immiscible_data::npy;
use rayon::ThreadPoolBuilder;

use crate::{
    OURS,
    assigners::{Batch, within},
    memory::{self, Work},
    race::{Budget, rounds},
    report::{EndToEnd, gap_percent},
};

/// Every precision by its name in the report.
pub(crate) const PRECISIONS: [(&str, Precision); 2] = [("f32", Precision::F32), ("int8", Precision::Int8)];
const THREADS: [usize; 2] = [1, 2];

pub(crate) fn measure(batch: &Batch, budget: &mut Budget, folder: &Path) -> anyhow::Result<Vec<EndToEnd>> {
    let (size, dimension) = batch.images.dim();
    let files = ["images.npy", "noise.npy"].map(|name| folder.join(name));
    npy::write(&files[0], batch.images)?;
    npy::write(&files[1], batch.noise)?;
    let solver = by_name(OURS)?;
    let mut rows = Vec::new();
    let mut exact = None;
    for (name, precision) in PRECISIONS {
        let problem = Problem { precision, ..Problem::new(batch.images, Candidates::Shared(batch.noise)) };
        for threads in THREADS {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build()?;
            let who = format!("{}, {name}, {threads} threads", batch.data);
            let call = || pool.install(|| solver.assign(&problem));
            let (timing, answer) = within(budget, &who, size, (rounds(size), 1), &call);
            let cost = answer.map(|answer| plain_cost(batch, &answer));
            exact = exact.or(cost);
            let identity = plain_cost(
                batch,
                &Assignment { noise_of: (0..size as u32).collect(), ..Assignment::default() },
            );
            let work = Work::Assign { precision: name, images: &files[0], noise: &files[1] };
            rows.push(EndToEnd {
                data: batch.data.to_owned(),
                dimension,
                batch: size,
                precision: name.to_owned(),
                threads,
                peak_bytes: timing.timing().and_then(|_| memory::peak(OURS, work, threads)),
                timing,
                loss_percent: cost.zip(exact).map(|(cost, exact)| gap_percent(cost, exact, identity)),
            });
        }
    }
    Ok(rows)
}

/// −Σ⟨xᵢ, n⟩ of the pairs in double precision, whatever the precision they were found with.
fn plain_cost(batch: &Batch, answer: &Assignment) -> f64 {
    let pair = |(image, &j): (ndarray::ArrayView1<f32>, &u32)| -> f64 {
        let noise = batch.noise.row(j as usize);
        image.iter().zip(noise).map(|(&x, &n)| f64::from(x) * f64::from(n)).sum()
    };
    -batch.images.rows().into_iter().zip(&answer.noise_of).map(pair).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use immiscible_benches::fields;

    use super::*;

    #[test]
    fn eight_bits_lose_little() {
        let (images, noise) = (fields::smooth(0, 64, 3, 8), fields::noise(0, 64, 192));
        let batch = Batch { data: "smooth", images: images.view(), noise: noise.view() };
        let folder = tempfile::tempdir().expect("a folder");
        let rows = measure(&batch, &mut Budget::new(1.0), folder.path()).expect("finite");
        assert_eq!(rows.len(), PRECISIONS.len() * THREADS.len());
        for row in rows {
            let loss = row.loss_percent.expect("measured");
            assert!(
                if row.precision == "f32" { loss == 0.0 } else { (-1e-6..0.5).contains(&loss) },
                "{row:?}"
            );
        }
    }
}
