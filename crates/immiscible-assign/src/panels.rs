//! Rows of images and noises in the order in which a kernel of matrix products reads them.

use std::ops::Range;

use ndarray::{ArrayView2, Axis, parallel::prelude::*};
use rayon::slice::ParallelSliceMut;

/// Images of a tile …
pub(crate) const IMAGES: usize = 12;
/// … and its noises: with AVX-512 a tile's sums take 24 of the 32 registers.
pub(crate) const NOISES: usize = 32;
/// Images of a part, which is one thread's work: at most so many, …
pub(crate) const PART: usize = 16 * IMAGES;
/// … and no more bytes of them than half of a core's second cache holds.
const PART_BYTES: usize = 600 << 10;

/// A number of single precision, or four of eight bits.
pub(crate) type Word = [u8; 4];

/// Rows of words: of each `N` rows first the first words, then the second ones …
pub(crate) struct Panels<const N: usize> {
    words: Vec<[Word; N]>,
    rows: usize,
    /// Words of a row.
    depth: usize,
}

impl<const N: usize> Panels<N> {
    /// Packs rows in parallel. `write` fills the words of a row, as many for each, and what it returns is returned for each
    /// row. Words that it leaves alone, and missing rows of the last panel, are zeros.
    pub(crate) fn of<R: Send>(
        rows: ArrayView2<f32>,
        depth: usize,
        write: impl Fn(&[f32], &mut [Word]) -> R + Sync,
    ) -> (Self, Vec<R>) {
        let mut words = vec![[Word::default(); N]; rows.nrows().div_ceil(N) * depth];
        let written = words
            .par_chunks_mut(depth.max(1))
            .zip(rows.axis_chunks_iter(Axis(0), N))
            .map_init(Vec::new, |buffer: &mut Vec<Word>, (panel, rows)| {
                // What rows do not reach is zeros from the first panel on.
                buffer.resize(N * depth, Word::default());
                let words = &mut buffer[..rows.nrows() * depth];
                let written: Vec<R> = rows
                    .rows()
                    .into_iter()
                    .zip(words.chunks_mut(depth.max(1)))
                    .map(|(row, words)| match row.as_slice() {
                        Some(row) => write(row, words),
                        None => write(&row.to_vec(), words),
                    })
                    .collect();
                interleave(words, panel);
                written
            })
            .collect::<Vec<_>>();
        (Self { words, rows: rows.nrows(), depth }, written.into_iter().flatten().collect())
    }

    /// Some of the rows.
    pub(crate) fn select(&self, rows: &[usize]) -> Self {
        let mut words = vec![[Word::default(); N]; rows.len().div_ceil(N) * self.depth];
        for (panel, rows) in words.chunks_mut(self.depth.max(1)).zip(rows.chunks(N)) {
            let rows: Vec<Word> = rows.iter().flat_map(|&i| self.row(i)).collect();
            interleave(&rows, panel);
        }
        Self { words, rows: rows.len(), depth: self.depth }
    }

    /// The words of a row.
    pub(crate) fn row(&self, i: usize) -> impl Iterator<Item = Word> + '_ {
        self.panel(i / N).iter().map(move |words| words[i % N])
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    fn panel(&self, p: usize) -> &[[Word; N]] {
        &self.words[p * self.depth..(p + 1) * self.depth]
    }
}

impl Panels<IMAGES> {
    /// Rows of a part, a multiple of a panel's.
    pub(crate) fn part(&self) -> usize {
        (PART_BYTES / (4 * self.depth.max(1)) / IMAGES * IMAGES).clamp(IMAGES, PART)
    }

    /// The tiles that the images in `rows` make with all noises. `multiply` takes the panels of a tile to its sums, and `take`
    /// is given those that count: of which images, of which noises, and for each image the sums.
    pub(crate) fn tiles<T>(
        &self,
        noises: &Panels<NOISES>,
        rows: Range<usize>,
        multiply: impl Fn(&[[Word; IMAGES]], &[[Word; NOISES]]) -> [[T; NOISES]; IMAGES],
        mut take: impl FnMut(Range<usize>, Range<usize>, &[[T; NOISES]]),
    ) {
        for j in (0..noises.rows).step_by(NOISES) {
            let columns = j..noises.rows.min(j + NOISES);
            for p in rows.start / IMAGES..rows.end.div_ceil(IMAGES) {
                let sums = multiply(self.panel(p), noises.panel(j / NOISES));
                let images = rows.start.max(p * IMAGES)..rows.end.min((p + 1) * IMAGES);
                take(images.clone(), columns.clone(), &sums[images.start - p * IMAGES..][..images.len()]);
            }
        }
    }
}

/// Rows one after the other, into a panel.
fn interleave<const N: usize>(rows: &[Word], panel: &mut [[Word; N]]) {
    /// Words of a row that are moved together.
    const WORDS: usize = 16;
    let depth = panel.len();
    for (block, panel) in panel.chunks_mut(WORDS).enumerate() {
        for (r, row) in rows.chunks(depth.max(1)).enumerate() {
            for (words, &word) in panel.iter_mut().zip(&row[block * WORDS..]) {
                words[r] = word;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;

    use super::*;

    #[test]
    fn rows_come_back_and_missing_ones_are_zeros() {
        let rows = Array2::from_shape_fn((29, 35), |(i, k)| (100 * i + k) as f32);
        let (panels, first) = Panels::<12>::of(rows.view(), 40, |row, words| {
            words.iter_mut().zip(row).for_each(|(word, x)| *word = (*x as u32).to_le_bytes());
            row[0]
        });
        assert_eq!(first, (0..29).map(|i| 100.0 * i as f32).collect::<Vec<_>>());
        let chosen = panels.select(&[28, 3]);
        for (i, row) in (0..29).map(|i| (i, panels.row(i))).chain([(28, chosen.row(0)), (3, chosen.row(1))]) {
            let expected = (0..40).map(|k| if k < 35 { 100 * i as u32 + k } else { 0 });
            assert!(row.map(u32::from_le_bytes).eq(expected), "row {i}");
        }
        assert!((29..36).all(|i| panels.row(i).all(|word| word == [0; 4])));
        assert_eq!((panels.rows(), chosen.rows()), (29, 2));
    }

    #[test]
    fn every_pair_is_in_one_tile() {
        let image = |i: usize| (7 * i + 1) as u32;
        let pack = |row: &[f32], words: &mut [Word]| words[0] = (row[0] as u32).to_le_bytes();
        let column = |rows: usize| Array2::from_shape_fn((rows, 1), |(i, _)| image(i) as f32);
        let (x, _) = Panels::<IMAGES>::of(column(40).view(), 1, pack);
        let (n, _) = Panels::<NOISES>::of(column(70).view(), 1, pack);
        for rows in [0..40, 5..6, 11..25, 3..3] {
            let mut seen = Array2::<u32>::zeros((rows.len(), 70));
            x.tiles(
                &n,
                rows.clone(),
                |x, n| x[0].map(|x| n[0].map(|n| u32::from_le_bytes(x) * u32::from_le_bytes(n))),
                |images, columns, sums| {
                    for (i, sums) in images.zip(sums) {
                        columns.clone().zip(sums).for_each(|(j, &sum)| seen[(i - rows.start, j)] += sum);
                    }
                },
            );
            for ((i, j), &sum) in seen.indexed_iter() {
                assert_eq!(sum, image(rows.start + i) * image(j));
            }
        }
    }
}
