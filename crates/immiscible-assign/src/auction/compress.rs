//! A row's cheapest columns with AVX-512, which writes those lanes of a vector that count one beside the other.

use std::arch::x86_64::{__m512, __m512i};

use pulp::{NullaryFnOnce, x86::V4};

use super::scan::{BLOCK, LANES};

/// What [`super::scan::Fill`] does, for single precision. What each lane is the minimum of is the same, so that every processor
/// makes the same lists.
pub(super) struct Compress<'a> {
    pub(super) v4: V4,
    pub(super) row: &'a [f32],
    pub(super) v: &'a [f32],
    pub(super) shift: f32,
    pub(super) rank: usize,
    /// [`LANES`] more than a row has columns.
    pub(super) columns: &'a mut [u32],
}

impl NullaryFnOnce for Compress<'_> {
    /// The threshold, and how many columns are listed.
    type Output = (f32, usize);

    #[inline(always)]
    fn call(self) -> (f32, usize) {
        let Self { v4, row, v, shift, rank, columns } = self;
        let simd = v4.avx512f;
        let shift = simd._mm512_set1_ps(shift);
        let reduced = |c: &[f32; LANES], v: &[f32; LANES]| {
            simd._mm512_sub_ps(simd._mm512_sub_ps(pulp::cast(*c), shift), pulp::cast(*v))
        };
        let ((row, row_rest), (v, v_rest)) = (row.as_chunks::<BLOCK>(), v.as_chunks::<BLOCK>());
        let (mut c_end, mut v_end) = ([f32::INFINITY; BLOCK], [0.0; BLOCK]);
        c_end[..row_rest.len()].copy_from_slice(row_rest);
        v_end[..v_rest.len()].copy_from_slice(v_rest);
        let blocks = row.iter().zip(v).chain([(&c_end, &v_end)]);

        let mut halves = [simd._mm512_set1_ps(f32::INFINITY); 2];
        for (block, (c, v)) in blocks.clone().enumerate() {
            let ((c, _), (v, _)) = (c.as_chunks(), v.as_chunks());
            let least = simd._mm512_min_ps(reduced(&c[0], &v[0]), reduced(&c[1], &v[1]));
            halves[block % 2] = simd._mm512_min_ps(halves[block % 2], least);
        }
        let threshold = of_rank(v4, folded(v4, halves), rank);

        let (at_most, step) = (simd._mm512_set1_ps(threshold), simd._mm512_set1_epi32(LANES as i32));
        let mut column: __m512i = pulp::cast(std::array::from_fn::<_, LANES, _>(|k| k as u32));
        let mut len = 0;
        for (c, v) in blocks {
            for (c, v) in c.as_chunks().0.iter().zip(v.as_chunks().0) {
                let low = simd._mm512_cmple_ps_mask(reduced(c, v), at_most);
                let listed: [u32; LANES] = pulp::cast(simd._mm512_maskz_compress_epi32(low, column));
                columns[len..len + LANES].copy_from_slice(&listed);
                len += low.count_ones() as usize;
                column = simd._mm512_add_epi32(column, step);
            }
        }
        (threshold, len)
    }
}

/// The minima of every eighth column, of even blocks and of odd ones.
#[inline(always)]
fn folded(v4: V4, [even, odd]: [__m512; 2]) -> __m512 {
    let simd = v4.avx512f;
    // The lower halves of both, and the upper ones.
    let lower = simd._mm512_shuffle_f32x4::<0b01_00_01_00>(even, odd);
    let upper = simd._mm512_shuffle_f32x4::<0b11_10_11_10>(even, odd);
    simd._mm512_min_ps(lower, upper)
}

/// The largest of those lanes that have fewer than `rank` smaller ones; finite.
#[inline(always)]
fn of_rank(v4: V4, lanes: __m512, rank: usize) -> f32 {
    let simd = v4.avx512f;
    let one = simd._mm512_set1_epi32(1);
    let mut smaller = simd._mm512_set1_epi32(0);
    for x in pulp::cast::<_, [f32; LANES]>(lanes) {
        let larger = simd._mm512_cmplt_ps_mask(simd._mm512_set1_ps(x), lanes);
        smaller = simd._mm512_mask_add_epi32(smaller, larger, smaller, one);
    }
    let ranked = simd._mm512_cmplt_epu32_mask(smaller, simd._mm512_set1_epi32(rank as i32));
    let threshold = simd._mm512_mask_reduce_max_ps(ranked, lanes);
    if threshold.is_finite() { threshold } else { f32::MAX }
}
