//! Functions of a number, and sums, that become loops over wide vectors where they are inlined into what is compiled for every
//! instruction set.

/// Partial sums that are kept while adding up: as many as wide vectors hold, several times, so that additions overlap.
const PARTS: usize = 64;

#[inline(always)]
pub(crate) fn sum(values: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (wide, rest) = values.as_chunks::<PARTS>();
    let mut parts = [0.0; PARTS];
    for values in wide {
        parts.iter_mut().zip(values).for_each(|(part, &value)| *part += term(value));
    }
    parts.iter().sum::<f32>() + rest.iter().map(|&value| term(value)).sum::<f32>()
}

#[inline(always)]
pub(crate) fn sum_of_pairs(a: &[f32], b: &[f32], term: impl Fn(f32, f32) -> f32) -> f32 {
    let ((wide_a, rest_a), (wide_b, rest_b)) = (a.as_chunks::<PARTS>(), b.as_chunks::<PARTS>());
    let mut parts = [0.0; PARTS];
    for (a, b) in wide_a.iter().zip(wide_b) {
        parts.iter_mut().zip(a).zip(b).for_each(|((part, &a), &b)| *part += term(a, b));
    }
    parts.iter().sum::<f32>() + rest_a.iter().zip(rest_b).map(|(&a, &b)| term(a, b)).sum::<f32>()
}

/// Rows of `width` values, added up one after the other.
pub(crate) fn sum_of_rows(rows: &[f32], width: usize) -> Vec<f32> {
    let mut sum = vec![0.0; width];
    for row in rows.chunks_exact(width) {
        sum.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
    }
    sum
}

/// The largest value; −∞ of none.
#[inline(always)]
pub(crate) fn largest(values: &[f32]) -> f32 {
    let max = |a: f32, b: f32| if b > a { b } else { a };
    let (wide, rest) = values.as_chunks::<PARTS>();
    let mut parts = [f32::NEG_INFINITY; PARTS];
    for values in wide {
        parts.iter_mut().zip(values).for_each(|(part, &value)| *part = max(*part, value));
    }
    parts.iter().chain(rest).copied().fold(f32::NEG_INFINITY, max)
}

/// Mean and 1/√(variance + ε), as norms need them.
#[inline(always)]
pub(crate) fn moments(x: &[f32], epsilon: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum(x, |x| x) / count;
    let variance = sum(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + epsilon).sqrt())
}

/// 1 / (1 + e^−y), to 3·10⁻⁷ of it. With the library's exponential a loop would not become one over wide vectors.
#[inline(always)]
pub(crate) fn sigmoid(y: f32) -> f32 {
    1.0 / (1.0 + exp(-y))
}

/// eˣ for x in [−87, 87], and what it is at the end beyond.
#[inline(always)]
pub(crate) fn exp(x: f32) -> f32 {
    /// Added to a number below 2²², it leaves no digits behind the point: the number's integer is in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    // eˣ = 2ᵏ 2ᶠ with an integer k and |f| ≤ 1/2; of 2ᶠ the first seven terms of its series.
    let t = x.clamp(-87.0, 87.0) * std::f32::consts::LOG2_E;
    let rounded = t + ROUND;
    let f = t - (rounded - ROUND);
    let mut power = 1.540_353e-4;
    for coefficient in [1.333_355_8e-3, 9.618_129e-3, 5.550_411e-2, 0.240_226_5, std::f32::consts::LN_2, 1.0]
    {
        power = power * f + coefficient;
    }
    let two_to_k = f32::from_bits((rounded.to_bits() << 23).wrapping_add(127 << 23));
    power * two_to_k
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_and_sigmoids_are_those_of_the_library() {
        for i in -88_000..=88_000 {
            let x = i as f32 / 1000.0;
            let expected = f64::from(x.clamp(-87.0, 87.0)).exp();
            // The argument's own rounding grows with it: an eighth of a unit in the last place for each 1.
            let tolerance = 2e-7 + 1e-7 * f64::from(x.abs());
            assert!((f64::from(exp(x)) / expected - 1.0).abs() < tolerance, "{x}: {}, {expected}", exp(x));
            let expected = 1.0 / (1.0 + (-f64::from(x)).exp());
            assert!((f64::from(sigmoid(x)) - expected).abs() < 3e-7, "{x}: {}, {expected}", sigmoid(x));
        }
        assert_eq!(sigmoid(f32::INFINITY), 1.0);
        assert!(sigmoid(f32::NEG_INFINITY) < 1e-37);
        assert!(sigmoid(f32::NAN).is_nan());
    }
}
