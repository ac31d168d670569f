//! The kernels of matrix products: all sums of one panel of images and one of noises.

#[cfg(target_arch = "x86_64")]
use std::arch::{is_x86_feature_detected, x86_64::*};

use pulp::{Arch, NullaryFnOnce};

use crate::panels::{IMAGES, NOISES, Sums, Word};

/// Words whose products are summed in 16 bits, where there are no wider sums. Rows of bytes have a multiple of them.
pub(crate) const SHORT: usize = 2;
/// Words of a vector of AVX-512.
#[cfg(target_arch = "x86_64")]
const LANES: usize = 16;

type Images<'a> = &'a [[Word; IMAGES]];
type Noises<'a> = &'a [[Word; NOISES]];

/// What this processor multiplies bytes with.
#[derive(Clone, Copy)]
pub(crate) enum Bytes {
    /// AVX-512 with VNNI: 64 products in one instruction.
    #[cfg(target_arch = "x86_64")]
    Vnni,
    /// AVX2, or what the compiler makes of the plain loops.
    Other(Arch),
}

impl Bytes {
    /// The fastest there is.
    pub(crate) fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vnni") {
            return Self::Vnni;
        }
        Self::Other(Arch::new())
    }

    /// Adds Σ x n, where x is from 0 to 127 and n from −63 to 63, in two's complement.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "pulp has no instructions of VNNI"))]
    pub(crate) fn multiply(self, x: Images, n: Noises, sums: &mut Sums<i32>) {
        match self {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` has found what `vnni` asks of the processor.
            Self::Vnni => unsafe { vnni(x, n, sums) },
            #[cfg(target_arch = "x86_64")]
            Self::Other(Arch::V3(v3)) => v3.vectorize(Avx2 { avx2: v3.avx2, x, n, sums }),
            #[cfg(target_arch = "x86_64")]
            Self::Other(Arch::V4(v4)) => v4.vectorize(Avx2 { avx2: v4.avx2, x, n, sums }),
            Self::Other(arch) => arch.dispatch(Portable { x, n, sums }),
        }
    }
}

/// Multiplies numbers of single precision with AVX-512, which the library for products of matrices does not use.
#[derive(Clone, Copy)]
pub(crate) struct Floats(());

impl Floats {
    /// None if the processor has no such instructions.
    pub(crate) fn new() -> Option<Self> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") {
            return Some(Self(()));
        }
        None
    }

    /// Adds Σ x n.
    #[cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "it is called like the kernel of bytes"))]
    pub(crate) fn multiply(self, x: Images, n: Noises, sums: &mut Sums<f32>) {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `new` has found what `avx512` asks of the processor.
        unsafe {
            avx512(x, n, sums)
        };
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (x, n, sums);
    }
}

/// Σ x n of the four bytes of two words.
#[inline(always)]
pub(crate) fn dot(x: Word, n: Word) -> i32 {
    x.into_iter().zip(n).map(|(x, n)| i32::from(x) * i32::from(n as i8)).sum()
}

struct Portable<'a> {
    x: Images<'a>,
    n: Noises<'a>,
    sums: &'a mut Sums<i32>,
}

impl NullaryFnOnce for Portable<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        for (x, n) in self.x.iter().zip(self.n) {
            for (sums, &x) in self.sums.iter_mut().zip(x) {
                for (sum, &n) in sums.iter_mut().zip(n) {
                    *sum += dot(x, n);
                }
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn vnni(x: Images, n: Noises, total: &mut Sums<i32>) {
    let mut sums = [[_mm512_setzero_si512(); NOISES / LANES]; IMAGES];
    for (x, n) in x.iter().zip(n) {
        let n: [__m512i; NOISES / LANES] = pulp::cast(*n);
        for (sums, &x) in sums.iter_mut().zip(x) {
            let x = _mm512_set1_epi32(i32::from_le_bytes(x));
            for (sum, n) in sums.iter_mut().zip(n) {
                *sum = _mm512_dpbusd_epi32(*sum, x, n);
            }
        }
    }
    for (total, sums) in total.iter_mut().zip(sums) {
        let before: [__m512i; NOISES / LANES] = pulp::cast(*total);
        *total = pulp::cast([0, 1].map(|c| _mm512_add_epi32(before[c], sums[c])));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn avx512(x: Images, n: Noises, total: &mut Sums<f32>) {
    let mut sums = [[_mm512_setzero_ps(); NOISES / LANES]; IMAGES];
    for (x, n) in x.iter().zip(n) {
        let n: [__m512; NOISES / LANES] = pulp::cast(*n);
        for (sums, &x) in sums.iter_mut().zip(x) {
            let x = _mm512_set1_ps(f32::from_le_bytes(x));
            for (sum, n) in sums.iter_mut().zip(n) {
                *sum = _mm512_fmadd_ps(x, n, *sum);
            }
        }
    }
    for (total, sums) in total.iter_mut().zip(sums) {
        let before: [__m512; NOISES / LANES] = pulp::cast(*total);
        *total = pulp::cast([0, 1].map(|c| _mm512_add_ps(before[c], sums[c])));
    }
}

#[cfg(target_arch = "x86_64")]
struct Avx2<'a> {
    avx2: pulp::core_arch::x86::Avx2,
    x: Images<'a>,
    n: Noises<'a>,
    sums: &'a mut Sums<i32>,
}

#[cfg(target_arch = "x86_64")]
impl NullaryFnOnce for Avx2<'_> {
    type Output = ();

    #[inline(always)]
    fn call(mut self) {
        self.part::<0, 0>();
        self.part::<0, 1>();
        self.part::<1, 0>();
        self.part::<1, 1>();
        self.part::<2, 0>();
        self.part::<2, 1>();
    }
}

#[cfg(target_arch = "x86_64")]
impl Avx2<'_> {
    #[inline(always)]
    fn part<const P: usize, const Q: usize>(&mut self) {
        /// Images and vectors of noises whose sums stay in the 16 registers.
        const ROWS: usize = 4;
        const VECTORS: usize = 2;
        /// Words of a vector.
        const WIDTH: usize = 8;
        let avx2 = self.avx2;
        let ones: __m256i = pulp::cast([1_i16; 16]);
        let mut part = [[pulp::cast([0_i32; WIDTH]); VECTORS]; ROWS];
        let pairs = self.x.as_chunks::<SHORT>().0.iter().zip(self.n.as_chunks::<SHORT>().0);
        for (x, n) in pairs {
            let n: [[__m256i; VECTORS]; SHORT] = std::array::from_fn(|k| {
                let vectors = n[k].as_chunks::<WIDTH>().0;
                std::array::from_fn(|c| pulp::cast(vectors[Q * VECTORS + c]))
            });
            for r in 0..ROWS {
                let x: [__m256i; SHORT] = std::array::from_fn(|k| pulp::cast([x[k][P * ROWS + r]; WIDTH]));
                for c in 0..VECTORS {
                    // Two products in 16 bits, four, and then four in 32.
                    let pairs =
                        [avx2._mm256_maddubs_epi16(x[0], n[0][c]), avx2._mm256_maddubs_epi16(x[1], n[1][c])];
                    let fours = avx2._mm256_add_epi16(pairs[0], pairs[1]);
                    part[r][c] = avx2._mm256_add_epi32(part[r][c], avx2._mm256_madd_epi16(fours, ones));
                }
            }
        }
        for (r, part) in part.into_iter().enumerate() {
            for (c, part) in part.into_iter().enumerate() {
                let part: [i32; WIDTH] = pulp::cast(part);
                let column = (Q * VECTORS + c) * WIDTH;
                let sums = &mut self.sums[P * ROWS + r][column..][..WIDTH];
                sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_instruction_set_multiplies_exactly() {
        let byte = |k: usize, values: &[i8]| values[k * 7 % values.len()] as u8;
        let word = |k: usize, values: &[i8]| -> Word { std::array::from_fn(|b| byte(4 * k + b, values)) };
        for depth in [0, 2, 50] {
            let x: Vec<[Word; IMAGES]> = (0..depth)
                .map(|k| std::array::from_fn(|r| word(k + r, &[0, 1, 127, 127, 127, 127, 126][..7 - r % 2])))
                .collect();
            let n: Vec<[Word; NOISES]> = (0..depth)
                .map(|k| std::array::from_fn(|c| word(k + c, &[63, -63, -63, -63, -63, 62, 5][..7 - c % 3])))
                .collect();
            let mut exact = [[0; NOISES]; IMAGES];
            for (r, sums) in exact.iter_mut().enumerate() {
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum = x.iter().zip(&n).map(|(x, n)| dot(x[r], n[c])).sum::<i32>();
                }
            }
            for kernel in [Bytes::new(), Bytes::Other(Arch::new()), Bytes::Other(Arch::Scalar)] {
                let mut sums = [[0; NOISES]; IMAGES];
                kernel.multiply(&x[..depth / 4 * 2], &n[..depth / 4 * 2], &mut sums);
                kernel.multiply(&x[depth / 4 * 2..], &n[depth / 4 * 2..], &mut sums);
                assert_eq!(sums, exact);
            }
        }
    }
}
