use crate::{CouplingError, state};
use immiscible_assign::{InnerProductSearch, Precision};
use immiscible_random::{Key, Stream};
use ndarray::{Array1, Array2, ArrayView2, Axis, aview1, parallel::prelude::*};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// The first line of a file. The number changes with the format.
const HEADER: &[u8] = b"immiscible semidiscrete 1\n";
/// κ₀: the first price of an image is −κ₀ times its distance from the mean. The optimum is flat between 2.5 and 3.
const FIRST_PRICE: f64 = 2.5;
/// Noises of a gradient: at least so many, and one for so many prices.
const NOISES: [usize; 2] = [1024, 16];
/// η₀, M₀ and α of the steps η₀ (1 + M/M₀)^−α after M noises for a price. On 4,096 images of Fashion-MNIST χ² at M = 50 is 0.032; with
/// twice η₀ 0.035 and with half of it 0.050, with half or twice M₀ and with α from 0.5 to 0.9 between 0.031 and 0.036.
const RATE: [f64; 3] = [0.5, 2.0, 0.7];
/// The most of what a price's share is off by that one step takes back.
const MOST: f64 = 0.5;
/// η of the polynomial-decay average of Shamir and Zhang 2013 (arXiv 1212.1824): about the last third of the steps count.
const AVERAGE: f64 = 2.0;
/// Steps between two looks at how good the prices are.
const LOOK_EVERY: usize = 100;
/// Standard error of χ² that a look is large enough for, if χ² is nearly 0.
const LOOK_ERROR: f64 = 0.005;
/// Parts of a look. Leaving out each in turn gives the standard errors (the jackknife).
const LOOK_PARTS: usize = 16;
/// Noises that are in memory at a time.
const TOGETHER: usize = 4096;

/// Semidiscrete optimal transport from standard normal noise to a whole data set (arXiv 2509.25519, §3): prices
/// g with which the noise n goes to the image y_j of the largest ⟨n, y_j⟩ + g_j. It is what assignment over ever larger windows
/// tends to, and so tells how much of the full alignment a window reaches.
///
/// The prices rise by stochastic gradients b − h, with the weights b of the images and the shares h of noises that go to them, in
/// steps that a price's change of s/√(2 ln P) is the unit of: with scores of P images like normal numbers of standard deviation s
/// it brings e times as many noises. The average of the prices is kept, which is several times better than the last ones: on
/// Fashion-MNIST χ² is about 1.6/M after M noises for each image, be they 4,096 or 60,000. Steps compare noises and images in 8 bits;
/// what is told about the prices is measured in single precision. Images that are equal share a price, as do, if asked for, an
/// image and its mirror image.
#[derive(Clone, Debug, PartialEq)]
pub struct Semidiscrete {
    /// A SHA-256 of the data that it was fitted to.
    pub data: [u8; 32],
    /// Whether the numbers of `of` are labels; otherwise it has one entry, with the number 0.
    pub class_wise: bool,
    /// Whether an image and its mirror image share a price. The dual value then is that of both.
    pub mirrored: bool,
    /// The prices of each label's images, or of all of them.
    pub of: BTreeMap<u32, Potential>,
}

/// The prices of some images, and how good they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Potential {
    /// g_j of every row of the data, in units of ⟨n, y⟩.
    pub prices: Vec<f32>,
    /// χ² of the images that noises go to against uniform ones, without bias: 0 for perfect prices. The quality of samples is
    /// said to gain little below 0.05.
    pub chi_squared: f64,
    /// Its standard error.
    pub chi_squared_error: f64,
    /// E max_j(⟨n, y_j⟩ + g_j) − Σ b_j g_j − E⟨n, ȳ⟩: the dual value. The alignment E⟨ε, x − x̄⟩ of no coupling whose noise is
    /// standard normal, for the images of each label if prices are class-wise, exceeds it.
    pub alignment: f64,
    /// Its standard error.
    pub alignment_error: f64,
    /// Gradients that were taken.
    pub steps: usize,
}

/// How prices are fitted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SemidiscreteOptions {
    /// Whether each label has prices of its own.
    pub class_wise: bool,
    /// The width of an image, of whose rows of pixels its values are made, if its mirror image, which a loader makes at random,
    /// shares its price.
    pub mirrored_width: Option<usize>,
    /// Fit until χ² is at most this.
    pub chi_squared: f64,
    /// Gradients at most.
    pub most_steps: usize,
}

impl Default for SemidiscreteOptions {
    fn default() -> Self {
        Self { class_wise: false, mirrored_width: None, chi_squared: 0.05, most_steps: 3000 }
    }
}

impl Semidiscrete {
    /// Fits prices to data. `key` is that of the noise. `look` is told, every 100 steps, how good the prices of a label are by then.
    ///
    /// # Shapes
    /// `x0` is `[N, D]`, `labels` `[N]`.
    ///
    /// # Errors
    /// [`CouplingError::LabelsRequired`] if they are, [`CouplingError::ContextRows`] if they are not N, and
    /// [`CouplingError::NonFinite`] or [`CouplingError::NoImages`] for images that are not finite or not there.
    pub fn fit(
        x0: ArrayView2<f32>,
        labels: Option<&[u32]>,
        options: &SemidiscreteOptions,
        key: Key,
        mut look: impl FnMut(u32, &Potential),
    ) -> Result<Self, CouplingError> {
        if x0.is_empty() {
            return Err(CouplingError::NoImages);
        }
        if !x0.iter().all(|x| x.is_finite()) {
            return Err(CouplingError::NonFinite);
        }
        let mut groups = BTreeMap::<u32, Vec<usize>>::new();
        match (options.class_wise, labels) {
            (false, _) => drop(groups.insert(0, (0..x0.nrows()).collect())),
            (true, None) => return Err(CouplingError::LabelsRequired),
            (true, Some(labels)) if labels.len() != x0.nrows() => {
                let (rows, found) = (x0.nrows(), labels.len());
                return Err(CouplingError::ContextRows { what: "labels have", rows, found });
            }
            (true, Some(labels)) => {
                labels.iter().zip(0..).for_each(|(label, row)| groups.entry(*label).or_default().push(row));
            }
        }
        let fit = |(label, rows): (u32, Vec<usize>)| {
            let images = x0.select(Axis(0), &rows);
            let targets = Targets::of(images.view(), options.mirrored_width);
            (label, targets.fit(options, key.step(label.into()), |potential| look(label, potential)))
        };
        let labels = labels.filter(|_| options.class_wise);
        Ok(Self {
            data: state::hash(x0, labels),
            class_wise: options.class_wise,
            mirrored: options.mirrored_width.is_some(),
            of: groups.into_iter().map(fit).collect(),
        })
    }

    /// The dual value of all images: that of each label by its share of them. If prices are class-wise it bounds class-wise
    /// couplings only.
    pub fn alignment(&self) -> f64 {
        let rows: usize = self.of.values().map(|potential| potential.prices.len()).sum();
        let sum = self.of.values().map(|p| p.alignment * p.prices.len() as f64).sum::<f64>();
        sum / rows.max(1) as f64
    }

    /// Whether they were fitted to these images.
    ///
    /// # Errors
    /// [`CouplingError::StateOfOther`] if not; `path` is where they were read.
    pub fn check(
        &self,
        path: &Path,
        x0: ArrayView2<f32>,
        labels: Option<&[u32]>,
    ) -> Result<(), CouplingError> {
        if self.data == state::hash(x0, labels.filter(|_| self.class_wise)) {
            return Ok(());
        }
        let (what, remedy) = ("data set", "fit prices to this one, or name another file");
        Err(CouplingError::StateOfOther { path: path.into(), what, remedy })
    }

    /// Writes the prices to a file, which is there as a whole or not at all.
    ///
    /// # Errors
    /// [`CouplingError::State`] if it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CouplingError> {
        let mut bytes = self.data.to_vec();
        let flags = u64::from(self.class_wise) + 2 * u64::from(self.mirrored);
        let numbers = [flags, self.of.len() as u64];
        bytes.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
        for (label, p) in &self.of {
            let numbers = [u64::from(*label), p.prices.len() as u64, p.steps as u64];
            bytes.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
            let floats = [p.chi_squared, p.chi_squared_error, p.alignment, p.alignment_error];
            bytes.extend(floats.into_iter().flat_map(f64::to_le_bytes));
            bytes.extend(p.prices.iter().flat_map(|price| price.to_le_bytes()));
        }
        state::write(path, HEADER, &bytes)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`CouplingError::State`] if it is not there, not such a file, or damaged.
    pub fn load(path: &Path) -> Result<Self, CouplingError> {
        let remedy = "name a file that immiscible coupling fit wrote";
        state::read(path, HEADER, "semidiscrete prices", remedy, |reader| {
            let data = reader.take()?;
            let (flags, labels) = (reader.number()?, reader.number()?);
            let mut of = BTreeMap::new();
            for _ in 0..labels {
                let label = u32::try_from(reader.number()?).map_err(|_| "a label is above 32 bits")?;
                let (rows, steps) = (reader.number()?, reader.number()?);
                let [chi_squared, chi_squared_error] = [reader.float()?, reader.float()?];
                let [alignment, alignment_error] = [reader.float()?, reader.float()?];
                let prices = reader.values(rows)?;
                let potential =
                    Potential { prices, chi_squared, chi_squared_error, alignment, alignment_error, steps };
                of.insert(label, potential);
            }
            Ok(Self { data, class_wise: flags & 1 != 0, mirrored: flags & 2 != 0, of })
        })
    }
}

/// What noises go to.
struct Targets {
    /// y − ȳ, `[M, D]`: every image once, and its mirror image if they share a price.
    images: Array2<f32>,
    /// The price of each of them.
    price_of: Vec<usize>,
    /// b: the share of the data that each price stands for.
    weights: Vec<f64>,
    /// The price of every row of the data.
    price_of_row: Vec<usize>,
    /// Root mean square of |y − ȳ|.
    scale: f64,
}

/// Where noises went.
struct Shares {
    /// How many went to each price.
    counts: Vec<u32>,
    /// Σ max_j(⟨n, y_j − ȳ⟩ + g_j)
    best: f64,
}

impl Targets {
    fn of(rows: ArrayView2<f32>, mirrored_width: Option<usize>) -> Self {
        let mirror = |row: &[f32]| -> Vec<f32> {
            let width = mirrored_width.filter(|width| row.len().is_multiple_of(*width)).unwrap_or(1);
            row.chunks(width).flat_map(|line| line.iter().rev().copied()).collect()
        };
        let digest = |row: &[f32]| state::hash(aview1(row).insert_axis(Axis(0)), None);
        let mut known = HashMap::<[u8; 32], usize>::new();
        let (mut images, mut price_of, mut counts) = (Vec::new(), Vec::new(), Vec::<usize>::new());
        let price_of_row = rows.rows().into_iter().map(|row| {
            let row = row.to_vec();
            let price = *known.entry(digest(&row)).or_insert_with(|| {
                price_of.push(counts.len());
                images.extend_from_slice(&row);
                counts.push(0);
                counts.len() - 1
            });
            if mirrored_width.is_some() {
                let mirrored = mirror(&row);
                known.entry(digest(&mirrored)).or_insert_with(|| {
                    price_of.push(price);
                    images.extend_from_slice(&mirrored);
                    price
                });
            }
            counts[price] += 1;
            price
        });
        let price_of_row: Vec<usize> = price_of_row.collect();
        let weights: Vec<f64> = counts.iter().map(|count| *count as f64 / rows.nrows() as f64).collect();
        let shape = (price_of.len(), rows.ncols());
        let mut images = Array2::from_shape_vec(shape, images).expect("whole rows");

        let mut targets_of = vec![0.0; weights.len()];
        price_of.iter().for_each(|price| targets_of[*price] += 1.0);
        let share = |price: usize| weights[price] / targets_of[price];
        let mut mean = Array1::<f64>::zeros(rows.ncols());
        for (image, price) in images.rows().into_iter().zip(&price_of) {
            mean.zip_mut_with(&image, |mean, x| *mean += share(*price) * f64::from(*x));
        }
        images -= &mean.mapv(|mean| mean as f32);
        let squares = images.rows().into_iter().zip(&price_of);
        let square = squares.map(|(image, price)| share(*price) * f64::from(image.dot(&image))).sum::<f64>();
        Self { images, price_of, weights, price_of_row, scale: square.sqrt() }
    }

    fn fit(&self, options: &SemidiscreteOptions, key: Key, mut look: impl FnMut(&Potential)) -> Potential {
        let prices = self.weights.len();
        let mut g = vec![0.0; prices];
        for (image, price) in self.images.rows().into_iter().zip(&self.price_of) {
            g[*price] = -FIRST_PRICE * f64::from(image.dot(&image)).sqrt();
        }
        let mut average = g.clone();
        let noises = (prices / NOISES[1]).max(NOISES[0]);
        let unit = self.scale / (2.0 * (self.price_of.len() as f64).ln()).sqrt();
        // One image, or equal ones: there is nothing to choose.
        let most = if prices < 2 { 0 } else { options.most_steps };
        let [train, test] = [key.stream(Stream::NOISE), key.stream(Stream::PROJECTION)];
        let quick = InnerProductSearch::new(self.images.view(), Precision::Int8);
        let mut steps = 0;
        while steps < most {
            let counts = self.shares(&quick, &g, train, (steps * noises) as u64, noises).counts;
            steps += 1;
            let weight = (AVERAGE + 1.0) / (AVERAGE + steps as f64);
            for j in 0..prices {
                let expected = self.weights[j] * noises as f64;
                let [first, until, decay] = RATE;
                let rate = first * (1.0 + expected * steps as f64 / until).powf(-decay);
                g[j] -= unit * rate.min(MOST / expected) * (f64::from(counts[j]) - expected);
                average[j] += weight * (g[j] - average[j]);
            }
            if steps.is_multiple_of(LOOK_EVERY) && steps < most {
                let found = Potential { steps, ..self.quality(&quick, &average, test) };
                look(&found);
                if found.chi_squared + 2.0 * found.chi_squared_error <= options.chi_squared {
                    break;
                }
            }
        }
        let exact = InnerProductSearch::new(self.images.view(), Precision::F32);
        Potential { steps, ..self.quality(&exact, &average, test) }
    }

    /// The prices with what they are worth, by noises that they were not fitted with.
    fn quality(&self, search: &InnerProductSearch, g: &[f64], key: Key) -> Potential {
        let prices = g.len();
        // For good prices the variance of χ² from B noises is 2P/B².
        let noises = ((2.0 * prices as f64).sqrt() / LOOK_ERROR / LOOK_PARTS as f64).ceil() as usize;
        let noises = noises.max(NOISES[0] / LOOK_PARTS);
        let weighted: f64 = g.iter().zip(&self.weights).map(|(g, b)| g * b).sum();
        let parts: Vec<Shares> =
            (0..LOOK_PARTS).map(|part| self.shares(search, g, key, (part * noises) as u64, noises)).collect();
        let whole = Shares {
            counts: (0..prices).map(|j| parts.iter().map(|part| part.counts[j]).sum()).collect(),
            best: parts.iter().map(|part| part.best).sum(),
        };
        // Of the whole, or of all but one part.
        let [all, rest] = [LOOK_PARTS, LOOK_PARTS - 1].map(|parts| (parts * noises) as f64);
        let chi_squared = self.chi_squared(all, |j| whole.counts[j]);
        let alignment = whole.best / all - weighted;
        let chi = parts.iter().map(|part| self.chi_squared(rest, |j| whole.counts[j] - part.counts[j]));
        let alignments = parts.iter().map(|part| (whole.best - part.best) / rest - weighted);
        let (chi_squared_error, alignment_error) =
            (jackknife(chi.collect()), jackknife(alignments.collect()));
        let prices = self.price_of_row.iter().map(|price| g[*price] as f32).collect();
        Potential { prices, chi_squared, chi_squared_error, alignment, alignment_error, steps: 0 }
    }

    /// χ² of so many noises, of which so many went to each price.
    fn chi_squared(&self, noises: f64, count: impl Fn(usize) -> u32) -> f64 {
        let term = |(j, b): (usize, &f64)| f64::from(count(j)) * (f64::from(count(j)) - 1.0) / b;
        let sum = self.weights.iter().enumerate().map(term).sum::<f64>();
        sum / (noises * (noises - 1.0)) - 1.0
    }

    /// Where the noises `first..first + count` of the key go.
    fn shares(&self, search: &InnerProductSearch, g: &[f64], key: Key, first: u64, count: usize) -> Shares {
        let d = self.images.ncols();
        let prices: Vec<f32> = self.price_of.iter().map(|price| g[*price] as f32).collect();
        let mut shares = Shares { counts: vec![0; g.len()], best: 0.0 };
        for start in (0..count).step_by(TOGETHER) {
            let mut noise = Array2::<f32>::zeros((TOGETHER.min(count - start), d));
            noise.axis_iter_mut(Axis(0)).into_par_iter().enumerate().for_each(|(row, mut noise)| {
                if let Some(values) = noise.as_slice_mut() {
                    key.fill_normals(first + (start + row) as u64, d, values);
                }
            });
            for (score, image) in search.best(&prices, noise.view()) {
                shares.counts[self.price_of[image as usize]] += 1;
                shares.best += f64::from(score);
            }
        }
        shares
    }
}

/// The standard error of an estimate, by those that leave out one part of the data each.
fn jackknife(estimates: Vec<f64>) -> f64 {
    let n = estimates.len() as f64;
    let mean = estimates.iter().sum::<f64>() / n;
    let squares = estimates.iter().map(|estimate| (estimate - mean).powi(2)).sum::<f64>();
    ((n - 1.0) / n * squares).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fresh_noise;

    /// Two images ±a: every half space has half of the noises, and the alignment is E|⟨n, a⟩| = |a| √(2/π).
    #[test]
    fn two_images_share_the_noise_at_their_plane() {
        let mut images = Array2::zeros((2, 3));
        images[(0, 0)] = 2.0;
        images[(1, 0)] = -2.0;
        let fitted =
            Semidiscrete::fit(images.view(), None, &SemidiscreteOptions::default(), Key::new(1), |_, _| {})
                .unwrap();
        let potential = &fitted.of[&0];
        let off = (potential.alignment - 2.0 * (2.0 / std::f64::consts::PI).sqrt()).abs();
        assert!(off < 4.0 * potential.alignment_error, "{potential:?}");
        assert!(f64::from(potential.prices[0] - potential.prices[1]).abs() < 0.1, "{potential:?}");
    }

    #[test]
    fn prices_bring_every_image_its_share() {
        let images = fresh_noise(300, 12, Key::new(2));
        let options = SemidiscreteOptions { chi_squared: 0.02, ..SemidiscreteOptions::default() };
        let fitted = Semidiscrete::fit(images.view(), None, &options, Key::new(1), |_, _| {}).unwrap();
        let potential = &fitted.of[&0];
        assert!(potential.chi_squared + 2.0 * potential.chi_squared_error <= 0.02, "{potential:?}");
        let none = Targets::of(images.view(), None);
        let search = InnerProductSearch::new(none.images.view(), Precision::F32);
        let without = none.quality(&search, &vec![0.0; 300], Key::new(7));
        assert!(without.chi_squared > 1.0, "without prices large images take all: {without:?}");
        assert!(
            potential.alignment < without.alignment - 4.0 * without.alignment_error,
            "any prices bound the alignment: {potential:?}, {without:?}"
        );
        let again = Semidiscrete::fit(images.view(), None, &options, Key::new(1), |_, _| {}).unwrap();
        assert_eq!(fitted, again);
    }

    #[test]
    fn equal_and_mirrored_images_share_a_price() {
        let mut images = fresh_noise(40, 8, Key::new(3));
        let first = images.row(0).to_owned();
        images.row_mut(7).assign(&first);
        let mirrored: Vec<f32> =
            first.to_vec().chunks(4).flat_map(|line| line.iter().rev().copied()).collect();
        images.row_mut(9).assign(&Array1::from(mirrored));
        let targets = Targets::of(images.view(), Some(4));
        assert_eq!(targets.weights.len(), 38);
        assert!((targets.weights[0] - 3.0 / 40.0).abs() < 1e-12);
        assert_eq!(targets.images.nrows(), 76);
        assert_eq!([targets.price_of_row[0], targets.price_of_row[7], targets.price_of_row[9]], [0; 3]);
        let alone = Targets::of(images.view(), None);
        assert_eq!((alone.weights.len(), alone.images.nrows()), (39, 39));
    }

    #[test]
    fn labels_have_prices_of_their_own_and_a_single_image_has_nothing_to_choose() {
        let images = fresh_noise(41, 6, Key::new(4));
        let labels: Vec<u32> = (0..41).map(|row| if row == 40 { 9 } else { row % 2 }).collect();
        let options = SemidiscreteOptions { class_wise: true, ..SemidiscreteOptions::default() };
        let fitted =
            Semidiscrete::fit(images.view(), Some(&labels), &options, Key::new(1), |_, _| {}).unwrap();
        let sizes: Vec<_> = fitted.of.iter().map(|(label, p)| (*label, p.prices.len())).collect();
        assert_eq!(sizes, [(0, 20), (1, 20), (9, 1)]);
        let alone = &fitted.of[&9];
        assert_eq!((alone.steps, alone.chi_squared), (0, 0.0));
        assert!(alone.alignment.abs() < 1e-6, "{alone:?}");
        let missing = Semidiscrete::fit(images.view(), None, &options, Key::new(1), |_, _| {});
        assert!(matches!(missing, Err(CouplingError::LabelsRequired)));

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("prices.bin");
        fitted.save(&path).unwrap();
        assert_eq!(Semidiscrete::load(&path).unwrap(), fitted);
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(matches!(Semidiscrete::load(&path), Err(CouplingError::State { .. })));
    }

    #[test]
    fn images_that_are_not_finite_or_not_there_are_refused() {
        let options = SemidiscreteOptions::default();
        let mut images = fresh_noise(4, 3, Key::new(5));
        images[(2, 1)] = f32::NAN;
        let fit =
            |images: &Array2<f32>| Semidiscrete::fit(images.view(), None, &options, Key::new(1), |_, _| {});
        assert!(matches!(fit(&images), Err(CouplingError::NonFinite)));
        assert!(matches!(fit(&Array2::zeros((0, 3))), Err(CouplingError::NoImages)));
    }
}
