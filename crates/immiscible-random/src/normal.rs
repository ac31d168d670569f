//! Standard normals from random words by the Box–Muller transform, the same bits on every platform.
//!
//! Logarithm, sine and cosine are short polynomials of +, −, ×, ÷ and √ on `f32`, which IEEE 754 rounds in one way
//! only: the maths library of a platform, which may differ in the last bit, is never asked. Nothing branches, so the
//! loops over lanes become SIMD.

/// Two normals from two words (Box and Muller, Annals of Mathematical Statistics 29, 1958):
/// √(−2 ln u)·cos θ and √(−2 ln u)·sin θ with u = `radius`/2³² and θ = 2π·`angle`/2³².
///
/// The 32 bits of u reach √(2·32·ln 2) ≈ 6.66 standard deviations.
#[inline(always)]
pub(crate) fn box_muller(radius: u32, angle: u32) -> (f32, f32) {
    const TWO_POW_MINUS_32: f32 = 1.0 / 4_294_967_296.0;
    // The lowest bit is set, so that u is never zero.
    let u = (radius | 1) as f32 * TWO_POW_MINUS_32;
    let r = (-2.0 * ln(u)).sqrt();
    let (sin, cos) = sin_cos_turn(angle);
    (r * cos, r * sin)
}

/// ln u for a normal, positive `u`.
#[inline(always)]
fn ln(u: f32) -> f32 {
    // u = 2^e · m with m in [√½, √2), read off the bits: subtracting √½ moves the carry of the mantissa into e.
    const SQRT_HALF: u32 = 0x3f35_04f3;
    let shifted = u.to_bits().wrapping_sub(SQRT_HALF);
    let e = (shifted as i32 >> 23) as f32;
    let m = f32::from_bits((shifted & 0x007f_ffff) + SQRT_HALF);
    // ln m = 2 artanh s = 2 (s + s³/3 + s⁵/5 + …) with s = (m − 1)/(m + 1), |s| ≤ 0.172: the rest is below 3e-9.
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let series = 1.0 + z * (1.0 / 3.0 + z * (1.0 / 5.0 + z * (1.0 / 7.0 + z * (1.0 / 9.0))));
    e * std::f32::consts::LN_2 + 2.0 * s * series
}

/// sin and cos of 2π·`turn`/2³².
#[inline(always)]
fn sin_cos_turn(turn: u32) -> (f32, f32) {
    const RADIANS: f32 = std::f32::consts::TAU / 4_294_967_296.0;
    // The nearest multiple of a quarter turn, and what remains of it: |x| ≤ π/4. Integers lose nothing here.
    let quarter = turn.wrapping_add(1 << 29) >> 30;
    let x = turn.wrapping_sub(quarter << 30) as i32 as f32 * RADIANS;
    let z = x * x;
    // Taylor; the first terms left out are below 2e-9 (sin, x¹¹/11!) and 2e-10 (cos, x¹²/12!).
    let sin = x + x * z * (-1.0 / 6.0 + z * (1.0 / 120.0 + z * (-1.0 / 5_040.0 + z * (1.0 / 362_880.0))));
    let cos = 1.0
        + z * (-0.5
            + z * (1.0 / 24.0 + z * (-1.0 / 720.0 + z * (1.0 / 40_320.0 + z * (-1.0 / 3_628_800.0)))));
    // A quarter turn swaps the two and changes a sign.
    let odd = quarter & 1 == 1;
    let (sin, cos) = if odd { (cos, sin) } else { (sin, cos) };
    let sin_sign = (quarter & 2) << 30;
    let cos_sign = (quarter.wrapping_add(1) & 2) << 30;
    (f32::from_bits(sin.to_bits() ^ sin_sign), f32::from_bits(cos.to_bits() ^ cos_sign))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Key, philox::philox_block};

    /// The same transform in `f64` with the standard library.
    fn reference(radius: u32, angle: u32) -> (f64, f64) {
        let u = f64::from((radius | 1) as f32) / 4_294_967_296.0;
        let theta = std::f64::consts::TAU * f64::from(angle) / 4_294_967_296.0;
        let r = (-2.0 * u.ln()).sqrt();
        (r * theta.cos(), r * theta.sin())
    }

    #[test]
    fn agrees_with_the_formula_in_f64() {
        let edges =
            [0, 1, 2, 1 << 29, (1 << 29) - 1, 1 << 30, 3 << 29, 1 << 31, 7 << 29, u32::MAX - 1, u32::MAX];
        let random = (0..500_000).map(|i| philox_block([i, 0, 0, 0], [7, 0])).map(|[a, b, ..]| (a, b));
        let grid = edges.into_iter().flat_map(|a| edges.into_iter().map(move |b| (a, b)));
        let mut worst = 0.0_f64;
        for (radius, angle) in grid.chain(random) {
            let (x, y) = box_muller(radius, angle);
            let (a, b) = reference(radius, angle);
            worst = worst.max((f64::from(x) - a).abs()).max((f64::from(y) - b).abs());
        }
        assert!(worst < 1e-6, "largest error {worst:e}");
    }

    #[test]
    fn the_tail_ends_near_6_66() {
        let (x, _) = box_muller(0, 0);
        assert!((x - 6.660).abs() < 1e-2, "{x}");
        assert_eq!(box_muller(u32::MAX, 0).0.abs(), 0.0);
    }

    /// Φ(x) by the complementary error function's continued fraction and series (Abramowitz and Stegun 26.2.10, 26.2.14).
    fn normal_cdf(x: f64) -> f64 {
        let a = x.abs();
        let density = (-0.5 * a * a).exp() / std::f64::consts::TAU.sqrt();
        let upper = if a < 3.0 {
            let (mut term, mut sum, mut n) = (a, a, 1.0);
            while term > 1e-17 * sum {
                n += 2.0;
                term *= a * a / n;
                sum += term;
            }
            0.5 - density * sum
        } else {
            density / (1..=60).rev().fold(a, |tail, k| a + f64::from(k) / tail)
        };
        if x < 0.0 { upper } else { 1.0 - upper }
    }

    #[test]
    fn has_the_moments_tails_and_shape_of_a_normal() {
        const N: usize = 1_000_000;
        let mut draws = vec![0.0; N];
        Key::new(20).fill_normals(0, 1_000, &mut draws);
        let n = N as f64;
        let moment = |p: i32| draws.iter().map(|&x| f64::from(x).powi(p)).sum::<f64>() / n;
        // Bounds of four standard errors: 1/√n, √(2/n), √(15/n), √(96/n).
        assert!(moment(1).abs() < 4.0 / n.sqrt(), "mean {}", moment(1));
        assert!((moment(2) - 1.0).abs() < 4.0 * (2.0 / n).sqrt(), "variance {}", moment(2));
        assert!(moment(3).abs() < 4.0 * (15.0 / n).sqrt(), "skew {}", moment(3));
        assert!((moment(4) - 3.0).abs() < 4.0 * (96.0 / n).sqrt(), "kurtosis {}", moment(4));

        // Beyond four standard deviations 63.3 are expected of 10⁶, beyond three 2,700.
        let beyond = |bound: f32| draws.iter().filter(|x| x.abs() > bound).count();
        assert!((30..=100).contains(&beyond(4.0)), "{} beyond 4", beyond(4.0));
        assert!((2_490..=2_910).contains(&beyond(3.0)), "{} beyond 3", beyond(3.0));

        // Kolmogorov–Smirnov: √n·D exceeds 1.95 once in a thousand samples.
        draws.sort_unstable_by(f32::total_cmp);
        let distance = draws.iter().enumerate().map(|(i, &x)| {
            let cdf = normal_cdf(f64::from(x));
            (cdf - i as f64 / n).abs().max((cdf - (i + 1) as f64 / n).abs())
        });
        let ks = distance.fold(0.0, f64::max) * n.sqrt();
        assert!(ks < 1.95, "√n·D = {ks}");
    }

    #[test]
    fn the_four_normals_of_a_block_are_uncorrelated() {
        const BLOCKS: usize = 100_000;
        let mut draws = vec![0.0; 4 * BLOCKS];
        Key::new(21).fill_normals(0, draws.len(), &mut draws);
        for lag in 1..=4 {
            let products = draws.iter().zip(&draws[lag..]);
            let (plain, squared) = products.fold((0.0, 0.0), |(p, s), (&a, &b)| {
                let (a, b) = (f64::from(a), f64::from(b));
                (p + a * b, s + (a * a - 1.0) * (b * b - 1.0))
            });
            let root = (draws.len() as f64).sqrt();
            assert!(plain.abs() / root < 4.0, "lag {lag}: {}", plain / root);
            assert!(squared.abs() / root < 2.0 * 4.0, "squares, lag {lag}: {}", squared / root);
        }
    }
}
