use std::marker::PhantomData;

use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

use crate::{
    normal::box_muller,
    philox::{philox, philox_block},
    stream::Stream,
};

/// Blocks of four words computed together.
const LANES: usize = 16;
/// Numbers in one group of [`LANES`] blocks.
const GROUP: usize = 4 * LANES;
/// Numbers in the smallest piece of work worth a thread: a multiple of [`GROUP`].
const PIECE: usize = 4_096;

/// The address of a table of random numbers: (seed, step, stream). It holds no state.
///
/// The table has rows (usually one per sample, by its index in the data set) of any length, and each number in it is a
/// function of (seed, step, stream, row, column) alone: Philox4x32-10 with the seed as its key and the rest as its
/// counter. So the same rows asked for together, apart, by many threads or in another process are the same numbers,
/// and the first numbers of a row do not depend on how many are asked for.
///
/// Use one key for one kind of draw: normals and uniforms of the same key are made of the same bits.
///
/// # Limits
/// Seeds and rows are 64 bits, steps 48 bits (a higher bit is not looked at). A row has 2³⁴ numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    seed: u64,
    step: u64,
    stream: u16,
}

impl Key {
    /// Step 0 of the unnamed stream of `seed`.
    pub const fn new(seed: u64) -> Self {
        Self { seed, step: 0, stream: 0 }
    }

    /// The same seed and stream at another step.
    pub const fn step(self, step: u64) -> Self {
        Self { step, ..self }
    }

    /// The same seed and step for another purpose.
    pub const fn stream(self, stream: Stream) -> Self {
        Self { stream: stream.0, ..self }
    }

    /// The seed, for reports.
    pub const fn seed(self) -> u64 {
        self.seed
    }

    /// The step, for what changes in the course of a run.
    pub const fn at_step(self) -> u64 {
        self.step
    }

    /// Fills `out` with standard normals: row `first_row` of the table, the next row, and so on.
    ///
    /// # Shapes
    /// `out` is [rows, `row_len`] in row-major order; a last row that is cut short gets the beginning of its row.
    pub fn fill_normals(self, first_row: u64, row_len: usize, out: &mut [f32]) {
        self.fill_consecutive(first_row, row_len, out, fill::<Normals>);
    }

    /// Fills row r of `out` with standard normals from row `rows[r]` of the table.
    ///
    /// # Shapes
    /// `out` is [`rows.len()`, `row_len`] in row-major order.
    ///
    /// # Panics
    /// If `out` does not have `rows.len() * row_len` elements.
    pub fn fill_normals_at(self, rows: &[u64], row_len: usize, out: &mut [f32]) {
        self.fill_at(rows, row_len, out, fill::<Normals>);
    }

    /// Fills `out` with uniforms in [0, 1), multiples of 2⁻²⁴: row `first_row` of the table, the next row, and so on.
    ///
    /// # Shapes
    /// `out` is [rows, `row_len`] in row-major order; a last row that is cut short gets the beginning of its row.
    pub fn fill_uniforms(self, first_row: u64, row_len: usize, out: &mut [f32]) {
        self.fill_consecutive(first_row, row_len, out, fill::<Uniforms>);
    }

    /// Fills row r of `out` with uniforms in [0, 1), multiples of 2⁻²⁴, from row `rows[r]` of the table.
    ///
    /// # Shapes
    /// `out` is [`rows.len()`, `row_len`] in row-major order.
    ///
    /// # Panics
    /// If `out` does not have `rows.len() * row_len` elements.
    pub fn fill_uniforms_at(self, rows: &[u64], row_len: usize, out: &mut [f32]) {
        self.fill_at(rows, row_len, out, fill::<Uniforms>);
    }

    /// One uniform in [0, 1) with 53 bits, the first of `row`; its leading 24 bits are those of [`fill_uniforms`].
    ///
    /// [`fill_uniforms`]: Self::fill_uniforms
    pub fn uniform(self, row: u64) -> f64 {
        (self.word_pair(row) >> 11) as f64 * (0.5_f64).powi(53)
    }

    /// The numbers 0 .. `n` in an order drawn from all orders alike (Fisher–Yates, without the bias of a modulus).
    ///
    /// # Panics
    /// If `n` is above 2³², more than the result can name.
    pub fn permutation(self, n: usize) -> Vec<u32> {
        assert!(n as u64 <= 1 << 32, "a permutation of {n} numbers does not fit u32");
        let mut words = Words { key: self, block: 0, buffer: [0; 4], used: 4 };
        let mut order: Vec<u32> = (0..n).map(|i| i as u32).collect();
        for last in (1..n).rev() {
            order.swap(last, words.at_most(last as u32) as usize);
        }
        order
    }

    /// A seed for the generator that a device brings along, for draws too large to make on the host.
    ///
    /// Seed the device right before each such draw, from a key with the step and stream of that draw, and let no other
    /// thread draw on the device in between: such generators are global to the process. The numbers then repeat from
    /// run to run on one kind of device; another kind of device draws others.
    pub fn device_seed(self) -> u64 {
        self.word_pair(0)
    }

    fn fill_consecutive(self, first_row: u64, row_len: usize, out: &mut [f32], fill: Fill) {
        let row_len = row_len.max(1);
        out.par_chunks_mut(row_len)
            .with_min_len(PIECE.div_ceil(row_len))
            .enumerate()
            .for_each(|(r, row)| self.fill_row(first_row.wrapping_add(r as u64), row, fill));
    }

    fn fill_at(self, rows: &[u64], row_len: usize, out: &mut [f32], fill: Fill) {
        assert_eq!(
            out.len(),
            rows.len() * row_len,
            "`out` must hold {} rows of {row_len} numbers",
            rows.len()
        );
        let row_len = row_len.max(1);
        out.par_chunks_mut(row_len)
            .with_min_len(PIECE.div_ceil(row_len))
            .zip(rows)
            .for_each(|(row, &id)| self.fill_row(id, row, fill));
    }

    fn fill_row(self, row: u64, out: &mut [f32], fill: Fill) {
        let blocks = Blocks::new(self, row);
        if out.len() <= PIECE {
            return fill(&blocks, 0, out);
        }
        out.par_chunks_mut(PIECE)
            .enumerate()
            .for_each(|(piece, out)| fill(&blocks, (piece * PIECE / 4) as u32, out));
    }

    fn word_pair(self, row: u64) -> u64 {
        let [high, low, ..] = Blocks::new(self, row).block(0);
        u64::from(high) << 32 | u64::from(low)
    }
}

/// Fills a slice with the numbers that start at a block of a row.
type Fill = fn(&Blocks, u32, &mut [f32]);

/// The same operations in the same order on every processor, in the widest vectors that it has.
fn fill<N: Numbers>(blocks: &Blocks, first_block: u32, out: &mut [f32]) {
    Arch::new().dispatch(Groups::<N>(blocks, first_block, out, PhantomData));
}

struct Groups<'a, N>(&'a Blocks, u32, &'a mut [f32], PhantomData<N>);

impl<N: Numbers> NullaryFnOnce for Groups<'_, N> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(blocks, first_block, out, _) = self;
        blocks.each_group::<N>(first_block, out);
    }
}

/// What becomes of random words. A trait and not a closure, which would not be compiled for those vectors.
trait Numbers {
    fn of(words: &[[u32; LANES]; 4], numbers: &mut [[f32; LANES]; 4]);
}

struct Normals;

impl Numbers for Normals {
    #[inline(always)]
    fn of(words: &[[u32; LANES]; 4], numbers: &mut [[f32; LANES]; 4]) {
        for pair in [0, 2] {
            for lane in 0..LANES {
                (numbers[pair][lane], numbers[pair + 1][lane]) =
                    box_muller(words[pair][lane], words[pair + 1][lane]);
            }
        }
    }
}

struct Uniforms;

impl Numbers for Uniforms {
    #[inline(always)]
    fn of(words: &[[u32; LANES]; 4], numbers: &mut [[f32; LANES]; 4]) {
        const TWO_POW_MINUS_24: f32 = 1.0 / 16_777_216.0;
        for (numbers, words) in numbers.iter_mut().zip(words) {
            for lane in 0..LANES {
                numbers[lane] = (words[lane] >> 8) as f32 * TWO_POW_MINUS_24;
            }
        }
    }
}

/// The blocks of one row: everything of counter and key but the number of the block.
struct Blocks {
    /// Counter words 1 to 3: row, low word of the step, high half-word of the step beside the stream.
    counter: [u32; 3],
    key: [u32; 2],
}

impl Blocks {
    fn new(key: Key, row: u64) -> Self {
        let Key { seed, step, stream } = key;
        let words = [seed as u32, (seed >> 32) as u32];
        // The counter has room for 32 bits of the row. Rows beyond that have a key of their own.
        let key = match (row >> 32) as u32 {
            0 => words,
            high => {
                let [a, b, ..] = philox_block([high, u32::MAX, u32::MAX, u32::MAX], words);
                [a, b]
            }
        };
        let last = (step >> 32) as u32 & 0xffff | u32::from(stream) << 16;
        Self { counter: [row as u32, step as u32, last], key }
    }

    fn block(&self, block: u32) -> [u32; 4] {
        let [row, step, last] = self.counter;
        philox_block([block, row, step, last], self.key)
    }

    /// Turns the words of each group of blocks into numbers, in the order block, word.
    #[inline(always)]
    fn each_group<N: Numbers>(&self, first_block: u32, out: &mut [f32]) {
        let [row, step, last] = self.counter;
        let mut numbers = [[0.0; LANES]; 4];
        for (group, out) in out.chunks_mut(GROUP).enumerate() {
            let first = first_block + (group * LANES) as u32;
            let mut ids = [0; LANES];
            for (lane, id) in ids.iter_mut().enumerate() {
                *id = first.wrapping_add(lane as u32);
            }
            let words = philox([ids, [row; LANES], [step; LANES], [last; LANES]], self.key);
            N::of(&words, &mut numbers);
            let mut interleaved = [0.0; GROUP];
            for lane in 0..LANES {
                for word in 0..4 {
                    interleaved[4 * lane + word] = numbers[word][lane];
                }
            }
            out.copy_from_slice(&interleaved[..out.len()]);
        }
    }
}

/// The words of row 0, one after the other: 2³⁴, twice what the longest permutation can be expected to need.
struct Words {
    key: Key,
    block: u32,
    buffer: [u32; 4],
    used: usize,
}

impl Words {
    fn next(&mut self) -> u32 {
        if self.used == 4 {
            self.buffer = Blocks::new(self.key, 0).block(self.block);
            self.block += 1;
            self.used = 0;
        }
        self.used += 1;
        self.buffer[self.used - 1]
    }

    /// A number in 0 ..= `max`, each as likely (Lemire, "Fast random integer generation in an interval", 2019).
    fn at_most(&mut self, max: u32) -> u32 {
        let bound = u64::from(max) + 1;
        let threshold = (1_u64 << 32) % bound;
        loop {
            let product = u64::from(self.next()) * bound;
            if product & 0xffff_ffff >= threshold {
                return (product >> 32) as u32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wide_vectors_change_no_bit() {
        fn check<N: Numbers>() {
            let blocks = Blocks::new(Key::new(5).step(7), 3);
            let (mut wide, mut plain) = (vec![0.0; PIECE - 3], vec![0.0; PIECE - 3]);
            fill::<N>(&blocks, 9, &mut wide);
            Arch::Scalar.dispatch(Groups::<N>(&blocks, 9, &mut plain, PhantomData));
            assert!(wide.iter().zip(&plain).all(|(a, b)| a.to_bits() == b.to_bits()));
        }
        check::<Normals>();
        check::<Uniforms>();
    }
}
