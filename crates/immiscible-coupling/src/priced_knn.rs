use crate::{
    Coupling, CouplingError, Draw, HostCoupling, Moments, PairContext,
    candidates::{all_finite, best_of, check_mask, keep_counted},
    knn::expected_maximum,
    state,
};
use immiscible_assign::AssignError;
use immiscible_random::{Key, Stream};
use ndarray::{Array2, ArrayView1, ArrayView2, Axis, parallel::prelude::*};
use std::{collections::BTreeMap, path::PathBuf};

/// Principal components whose variance is known; the others share what remains.
const COMPONENTS: usize = 32;
/// Leading components whose noise has variance 1 on average, by the choice of κ.
const LEADING: usize = 8;

/// Best of k at a price: every image takes, of its own k noises, the one with the largest ⟨x − ȳ, n⟩ − κ·√(nᵀΣn), where ȳ and Σ
/// are mean and covariance of the data.
///
/// A best of k by ⟨x, n⟩ alone moves the mean of the noise towards ȳ, and gives it too much variance where the data vary most,
/// because there every image finds something to its liking. The price of a noise is what all images together would gain by it:
/// for data that are themselves normal √(nᵀΣn), up to a factor, is its price under optimal transport. κ is fitted, so that the
/// noise's variance along the leading components is 1. So mean and energy stay those of standard normal noise, nearly; it is an
/// approximation, and [`Statistics`](crate::Statistics) shows what is left.
///
/// It needs no other image, so it works at batch size 1. All is drawn on the host by address; the first candidate is the
/// independent noise, so `k = 1` is ordinary training bit for bit.
#[derive(Clone, Debug)]
pub struct PricedKnn {
    /// Candidates per image, at least 1.
    pub k: usize,
    /// Whether each label has mean, covariance and κ of its own, so that these moments of the noise do not tell the label.
    pub class_wise: bool,
    /// Where [`fit`](Coupling::fit) keeps what it found, and finds it again.
    pub state: Option<PathBuf>,
    /// What the data set taught; none before [`fit`](Coupling::fit).
    pub prices: Option<Prices>,
}

/// What noises cost, for the images of each label, or of all.
#[derive(Clone, Debug, PartialEq)]
pub struct Prices {
    /// Candidates per image that it was fitted for.
    pub k: usize,
    /// A SHA-256 of the data that it was fitted to.
    pub data: [u8; 32],
    /// By label, or one entry for all of them, with the number 0.
    pub of: BTreeMap<u32, Price>,
    /// Whether the numbers of `of` are labels.
    pub class_wise: bool,
}

/// What noises cost for images with these moments.
#[derive(Clone, Debug, PartialEq)]
pub struct Price {
    /// ȳ and Σ.
    pub moments: Moments,
    /// κ.
    pub kappa: f64,
}

impl Price {
    /// Of the images `x0`, `[N, D]`.
    pub fn fit(x0: ArrayView2<f32>, k: usize) -> Self {
        let moments = Moments::of(x0, COMPONENTS);
        let kappa = fit_kappa(x0, &moments, k);
        Self { moments, kappa }
    }

    /// The score of every candidate; the largest is taken.
    ///
    /// # Shapes
    /// `centred` is x − ȳ, `[D]`; `candidates` are `[c, D]`. Both are zero where nothing counts.
    fn scores(&self, centred: ArrayView1<f32>, candidates: ArrayView2<f32>) -> Vec<f64> {
        let Moments { components, variances, .. } = &self.moments;
        let (gains, projected) = (candidates.dot(&centred), candidates.dot(&components.t()));
        let rest = self.moments.rest_variance();
        let scored = candidates.rows().into_iter().zip(projected.rows()).zip(gains);
        scored
            .map(|((n, z), gain)| {
                let (mut along, mut priced) = (0.0, 0.0);
                for (&z, &variance) in z.iter().zip(variances) {
                    let square = f64::from(z * z);
                    along += square;
                    priced += variance * square;
                }
                let across = (f64::from(n.dot(&n)) - along).max(0.0);
                f64::from(gain) - self.kappa * (priced + rest * across).sqrt()
            })
            .collect()
    }
}

/// What the fit of κ knows of a candidate: its gain, its price over κ, and the squares of its leading projections.
struct Candidate {
    gain: f64,
    price: f64,
    squares: [f32; LEADING],
}

/// The κ with which the noise's variance along the leading components is 1, pooled.
///
/// A score depends on its noise n by the projections z = Vn, by what n has along the rest of x − ȳ, a normal, and by |n|² of all
/// that is left, a χ²: they are drawn in place of n, so that the time does not depend on D.
fn fit_kappa(x0: ArrayView2<f32>, moments: &Moments, k: usize) -> f64 {
    let Moments { mean, components, variances, .. } = moments;
    let (leading, r) = (LEADING.min(variances.len()), variances.len());
    if k < 2 || variances.iter().sum::<f64>() <= 0.0 {
        return 0.0;
    }
    let draws = ((1 << 20) / k).clamp(1 << 10, 1 << 14);
    let rest = moments.rest_variance();
    let freedom = x0.ncols().saturating_sub(r + 1) as f64;
    let key = Key::new(0).stream(Stream::CANDIDATES);
    let candidates: Vec<Candidate> = (0..draws)
        .into_par_iter()
        .flat_map_iter(|draw| {
            let centred = &x0.row(draw % x0.nrows()) - mean;
            let along = components.dot(&centred);
            let across = (centred.dot(&centred) - along.dot(&along)).max(0.0).sqrt();
            let mut normals = vec![0.0; k * (r + 2)];
            key.fill_normals((draw * k) as u64, r + 2, &mut normals);
            let rows = normals.chunks_exact(r + 2).map(|normals| {
                let (z, others) = normals.split_at(r);
                let gain: f32 = z.iter().zip(&along).map(|(z, c)| z * c).sum::<f32>() + others[0] * across;
                let priced: f64 = z.iter().zip(variances).map(|(&z, v)| v * f64::from(z * z)).sum();
                // Wilson and Hilferty's normal approximation of a χ².
                let width = if freedom > 0.0 { 2.0 / (9.0 * freedom) } else { 0.0 };
                let chi = freedom * (1.0 - width + f64::from(others[1]) * width.sqrt()).powi(3);
                let square = f64::from(others[0] * others[0]) + chi.max(0.0);
                let squares = std::array::from_fn(|i| if i < leading { z[i] * z[i] } else { 0.0 });
                Candidate { gain: f64::from(gain), price: (priced + rest * square).sqrt(), squares }
            });
            rows.collect::<Vec<_>>()
        })
        .collect();
    let variance = |kappa: f64| -> f64 {
        let score = |candidate: &Candidate| candidate.gain - kappa * candidate.price;
        let taken = (0..draws).into_par_iter().map(|draw| {
            let own = &candidates[draw * k..(draw + 1) * k];
            let best =
                own.iter().fold(&own[0], |best, next| if score(next) > score(best) { next } else { best });
            best.squares.iter().map(|&square| f64::from(square)).sum::<f64>()
        });
        // Collected before they are added, so that the sum does not depend on the threads.
        taken.collect::<Vec<_>>().iter().sum::<f64>() / (draws * leading) as f64
    };
    // m_k is the most that a price can be: then it is all that the best of k gains on average. Data that vary alike in all
    // directions leave κ open.
    let (mut low, mut high) = (0.0, expected_maximum(k));
    if variance(low) <= 1.0 {
        return low;
    }
    for _ in 0..24 {
        let middle = 0.5 * (low + high);
        *if variance(middle) > 1.0 { &mut low } else { &mut high } = middle;
    }
    0.5 * (low + high)
}

impl PricedKnn {
    /// The price for every row.
    fn prices(&self, rows: usize, pairing: &PairContext) -> Result<Vec<&Price>, CouplingError> {
        let prices = self.prices.as_ref().ok_or(CouplingError::NotFitted { name: "priced_knn" })?;
        let labels = match (self.class_wise, pairing.labels) {
            (true, None) => return Err(CouplingError::LabelsRequired),
            (true, Some(labels)) if labels.len() != rows => {
                return Err(CouplingError::ContextRows { what: "labels have", rows, found: labels.len() });
            }
            (true, Some(labels)) => labels.to_vec(),
            (false, _) => vec![0; rows],
        };
        let price = |label| prices.of.get(&label).ok_or(CouplingError::UnknownLabel { label });
        labels.into_iter().map(price).collect()
    }
}

impl Coupling for PricedKnn {
    fn name(&self) -> &'static str {
        "priced_knn"
    }

    fn exact_marginal(&self) -> bool {
        self.k == 1
    }

    fn needs_data(&self) -> bool {
        true
    }

    fn fit(&mut self, x0: ArrayView2<f32>, labels: Option<&[u32]>) -> Result<(), CouplingError> {
        all_finite(x0)?;
        let labels = match (self.class_wise, labels) {
            (true, None) => return Err(CouplingError::LabelsRequired),
            (true, Some(labels)) if labels.len() != x0.nrows() => {
                let (rows, found) = (x0.nrows(), labels.len());
                return Err(CouplingError::ContextRows { what: "labels have", rows, found });
            }
            (true, labels) => labels,
            (false, _) => None,
        };
        let data = state::hash(x0, labels);
        if let Some(path) = self.state.as_ref().filter(|path| path.exists()) {
            let prices = Prices::load(path)?;
            prices.check(path, self.k, self.class_wise, &data)?;
            self.prices = Some(prices);
            return Ok(());
        }
        let of = match labels {
            None => BTreeMap::from([(0, Price::fit(x0, self.k))]),
            Some(labels) => {
                let mut rows = BTreeMap::<u32, Vec<usize>>::new();
                for (row, &label) in labels.iter().enumerate() {
                    rows.entry(label).or_default().push(row);
                }
                let fit = |rows: Vec<usize>| Price::fit(x0.select(Axis(0), &rows).view(), self.k);
                rows.into_iter().map(|(label, rows)| (label, fit(rows))).collect()
            }
        };
        let prices = Prices { k: self.k, data, of, class_wise: self.class_wise };
        if let Some(path) = &self.state {
            prices.save(path)?;
        }
        self.prices = Some(prices);
        Ok(())
    }

    fn host(&self) -> Option<&dyn HostCoupling> {
        Some(self)
    }
}

impl HostCoupling for PricedKnn {
    fn draw_host(
        &self,
        x0: ArrayView2<f32>,
        pairing: &PairContext,
        key: Key,
    ) -> Result<Draw<Array2<f32>>, CouplingError> {
        let (rows, dimensions) = x0.dim();
        let prices = self.prices(rows, pairing)?;
        if let Some(price) = prices.iter().find(|price| price.moments.mean.len() != dimensions) {
            return Err(AssignError::ShapeMismatch {
                what: "the batch",
                expected: vec![rows, price.moments.mean.len()],
                found: vec![rows, dimensions],
            }
            .into());
        }
        check_mask(x0, pairing.mask)?;
        best_of(self.k, x0, key, |row, mut candidates| {
            let (price, mask) = (prices[row], pairing.mask.map(|mask| mask.index_axis_move(Axis(0), row)));
            let mut centred = (&x0.row(row) - &price.moments.mean).insert_axis(Axis(0));
            keep_counted(&mut centred, mask);
            keep_counted(&mut candidates, mask);
            price.scores(centred.row(0), candidates.view())
        })
    }
}
