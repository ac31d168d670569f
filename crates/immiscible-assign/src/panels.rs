//! Rows of images and noises in the order in which a kernel of matrix products reads them.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::__m512i;
use std::{borrow::Cow, ops::Range};

use ndarray::{ArrayView2, Axis, parallel::prelude::*};
use pulp::{Arch, NullaryFnOnce};
use rayon::slice::ParallelSliceMut;

/// Images of a tile …
pub(crate) const IMAGES: usize = 12;
/// … and its noises: with AVX-512 a tile's sums take 24 of the 32 registers.
pub(crate) const NOISES: usize = 32;
/// Images of a part, which is one thread's work.
pub(crate) const PART: usize = 16 * IMAGES;
/// Noises whose sums with the images of a part stay in a core's second cache.
const COLUMNS: usize = 8 * NOISES;
/// Words that are multiplied before the next tile: so many of a panel of noises stay in a core's first cache.
const WORDS: usize = 256;

/// A number of single precision, or four of eight bits.
pub(crate) type Word = [u8; 4];
/// The sums of a tile.
pub(crate) type Sums<T> = [[T; NOISES]; IMAGES];

/// Rows of words: of each `N` rows first the first words, then the second ones …
pub(crate) struct Panels<const N: usize> {
    words: Vec<Word>,
    /// Words before the first panel, which begins a line of the caches.
    skipped: usize,
    rows: usize,
    /// Words of a row.
    depth: usize,
}

impl<const N: usize> Panels<N> {
    /// So many rows of so many words, all zeros.
    pub(crate) fn new(rows: usize, depth: usize) -> Self {
        /// Bytes of a line of the caches.
        const LINE: usize = 64;
        // In front and behind there is room for less than a line.
        let words = vec![Word::default(); rows.div_ceil(N) * depth * N + LINE / size_of::<Word>()];
        let skipped = words.as_ptr().align_offset(LINE).min(LINE / size_of::<Word>());
        Self { words, skipped, rows, depth }
    }

    /// Packs as many rows in parallel. `words_of` says which words those of a row are; it may write them into a buffer, which
    /// begins with zeros. Missing words are zeros. What it returns beside them is returned for each row.
    pub(crate) fn pack<R: Send>(
        &mut self,
        rows: ArrayView2<f32>,
        words_of: impl for<'a> Fn(&'a [f32], &'a mut [Word]) -> (&'a [Word], R) + Sync,
    ) -> Vec<R> {
        let arch = Arch::new();
        let depth = self.depth.max(1);
        let panels = self.words_mut().par_chunks_mut(depth).zip(rows.axis_chunks_iter(Axis(0), N));
        let more = panels.map_init(Vec::new, |buffer: &mut Vec<Word>, (panel, rows)| {
            // What rows do not reach is zeros from the first panel on.
            buffer.resize(N * depth, Word::default());
            let rows: Vec<Cow<[f32]>> = rows
                .rows()
                .into_iter()
                .map(|row| row.to_slice().map_or_else(|| row.to_vec().into(), Cow::Borrowed))
                .collect();
            let rows = rows.iter().zip(buffer.chunks_mut(depth));
            let (rows, more): (Vec<_>, Vec<_>) = rows.map(|(row, buffer)| words_of(row, buffer)).unzip();
            arch.dispatch(Interleave { arch, rows: &rows, panel });
            more
        });
        more.collect::<Vec<_>>().into_iter().flatten().collect()
    }

    /// Some of the rows.
    pub(crate) fn select(&self, rows: &[usize]) -> Self {
        let mut panels = Self::new(rows.len(), self.depth);
        for (panel, rows) in panels.words_mut().chunks_mut(self.depth.max(1)).zip(rows.chunks(N)) {
            for (r, &i) in rows.iter().enumerate() {
                panel.iter_mut().zip(self.row(i)).for_each(|(words, word)| words[r] = word);
            }
        }
        panels
    }

    /// The words of a row.
    pub(crate) fn row(&self, i: usize) -> impl Iterator<Item = Word> + '_ {
        self.panel(i / N).iter().map(move |words| words[i % N])
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    fn panel(&self, p: usize) -> &[[Word; N]] {
        let (words, _) = self.words[self.skipped..].as_chunks();
        &words[p * self.depth..(p + 1) * self.depth]
    }

    fn words_mut(&mut self) -> &mut [[Word; N]] {
        self.words[self.skipped..].as_chunks_mut().0
    }
}

impl Panels<IMAGES> {
    /// Multiplies the images in `rows` with all noises. `multiply` adds the products of some words of a tile's panels to its sums,
    /// and `take` is given what counts: of which image, of which noises, and the sums.
    pub(crate) fn tiles<T: Copy + Default>(
        &self,
        noises: &Panels<NOISES>,
        rows: Range<usize>,
        multiply: impl Fn(&[[Word; IMAGES]], &[[Word; NOISES]], &mut Sums<T>),
        mut take: impl FnMut(usize, Range<usize>, &[T]),
    ) {
        let panels = rows.start / IMAGES..rows.end.div_ceil(IMAGES);
        let tiles = COLUMNS / NOISES;
        let mut sums = vec![[[T::default(); NOISES]; IMAGES]; panels.len() * tiles];
        let mut row = [T::default(); COLUMNS];
        for first in (0..noises.rows).step_by(COLUMNS) {
            let columns = first..noises.rows.min(first + COLUMNS);
            sums.fill([[T::default(); NOISES]; IMAGES]);
            for start in (0..self.depth).step_by(WORDS) {
                let words = start..self.depth.min(start + WORDS);
                for (tile, j) in columns.clone().step_by(NOISES).enumerate() {
                    let n = &noises.panel(j / NOISES)[words.clone()];
                    let sums = &mut sums[tile * panels.len()..][..panels.len()];
                    for (p, sums) in panels.clone().zip(sums) {
                        multiply(&self.panel(p)[words.clone()], n, sums);
                    }
                }
            }
            for i in rows.clone() {
                let sums = sums[i / IMAGES - panels.start..].iter().step_by(panels.len());
                for (row, sums) in row.chunks_mut(NOISES).zip(sums) {
                    row.copy_from_slice(&sums[i % IMAGES]);
                }
                take(i, columns.clone(), &row[..columns.len()]);
            }
        }
    }
}

/// Puts the words of rows, of which none is longer than the panel, into the panel.
struct Interleave<'a, const N: usize> {
    arch: Arch,
    rows: &'a [&'a [Word]],
    panel: &'a mut [[Word; N]],
}

/// Rows and words that are moved together.
const SIDE: usize = 16;

type Square = [[Word; SIDE]; SIDE];

impl<const N: usize> NullaryFnOnce for Interleave<'_, N> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let width = const {
            assert!(N < SIDE || N.is_multiple_of(SIDE));
            if N < SIDE { N } else { SIDE }
        };
        for (start, panel) in (0..).step_by(SIDE).zip(self.panel.chunks_mut(SIDE)) {
            for (first, rows) in (0..).step_by(SIDE).zip(self.rows.chunks(SIDE)) {
                let mut square = [[Word::default(); SIDE]; SIDE];
                for (square, row) in square.iter_mut().zip(rows) {
                    let words = row.get(start..).unwrap_or_default();
                    match words.first_chunk() {
                        Some(words) => *square = *words,
                        None => square[..words.len()].copy_from_slice(words),
                    }
                }
                for (panel, column) in panel.iter_mut().zip(&transposed(self.arch, square)) {
                    panel[first..first + width].copy_from_slice(&column[..width]);
                }
            }
        }
    }
}

#[inline(always)]
fn transposed(arch: Arch, square: Square) -> Square {
    match arch {
        #[cfg(target_arch = "x86_64")]
        Arch::V4(v4) => {
            // Four times, the first half of the rows is woven into the second one.
            let weave = |first: i32| -> __m512i {
                pulp::cast(std::array::from_fn::<_, SIDE, _>(|k| {
                    first + k as i32 / 2 + k as i32 % 2 * SIDE as i32
                }))
            };
            let halves = [weave(0), weave(8)];
            let mut rows: [__m512i; SIDE] = pulp::cast(square);
            for _ in 0..4 {
                rows = std::array::from_fn(|i| {
                    v4.avx512f._mm512_permutex2var_epi32(rows[i / 2], halves[i % 2], rows[i / 2 + SIDE / 2])
                });
            }
            pulp::cast(rows)
        }
        _ => std::array::from_fn(|k| square.map(|row| row[k])),
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    fn number<'a>(row: &'a [f32], words: &'a mut [Word]) -> (&'a [Word], f32) {
        words.iter_mut().zip(row).for_each(|(word, x)| *word = (*x as u32).to_le_bytes());
        (&words[..row.len()], row[0])
    }

    #[test]
    fn rows_come_back_and_missing_ones_are_zeros() {
        let rows = Array2::from_shape_fn((29, 35), |(i, k)| (100 * i + k) as f32);
        let mut panels = Panels::<12>::new(29, 40);
        // What was there before is gone.
        panels.pack(Array2::from_elem((29, 40), 7.0).view(), number);
        assert_eq!(panels.pack(rows.view(), number), (0..29).map(|i| 100.0 * i as f32).collect::<Vec<_>>());
        let chosen = panels.select(&[28, 3]);
        for (i, row) in (0..29).map(|i| (i, panels.row(i))).chain([(28, chosen.row(0)), (3, chosen.row(1))]) {
            let expected = (0..40).map(|k| if k < 35 { 100 * i as u32 + k } else { 0 });
            assert!(row.map(u32::from_le_bytes).eq(expected), "row {i}");
        }
        assert!((29..36).all(|i| panels.row(i).all(|word| word == [0; 4])));
        assert_eq!((panels.rows(), chosen.rows()), (29, 2));
    }

    #[test]
    fn every_instruction_set_packs_the_same() {
        let square: Square = std::array::from_fn(|i| std::array::from_fn(|k| [i as u8, k as u8, 3, 4]));
        let columns: Square = std::array::from_fn(|k| std::array::from_fn(|i| [i as u8, k as u8, 3, 4]));
        for arch in [Arch::Scalar, Arch::new()] {
            assert_eq!(transposed(arch, square), columns, "{arch:?}");
        }
    }

    #[test]
    fn every_pair_is_in_one_tile() {
        let image = |i: usize| (7 * i + 1) as u32;
        let column = |rows: usize| Array2::from_shape_fn((rows, 1), |(i, _)| image(i) as f32);
        let (mut x, mut n) = (Panels::<IMAGES>::new(40, 1), Panels::<NOISES>::new(300, 1));
        x.pack(column(40).view(), number);
        n.pack(column(300).view(), number);
        for rows in [0..40, 5..6, 11..25, 3..3] {
            let mut seen = Array2::<u32>::zeros((rows.len(), 300));
            x.tiles(
                &n,
                rows.clone(),
                |x, n, sums: &mut Sums<u32>| {
                    for (sums, x) in sums.iter_mut().zip(x[0].map(u32::from_le_bytes)) {
                        sums.iter_mut().zip(n[0]).for_each(|(sum, n)| *sum += x * u32::from_le_bytes(n));
                    }
                },
                |i, columns, sums| {
                    columns.zip(sums).for_each(|(j, &sum)| seen[(i - rows.start, j)] += sum);
                },
            );
            for ((i, j), &sum) in seen.indexed_iter() {
                assert_eq!(sum, image(rows.start + i) * image(j));
            }
        }
    }
}
