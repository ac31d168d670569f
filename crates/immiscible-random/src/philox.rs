//! Philox4x32-10: ten rounds of multiply, xor and swap that turn a counter and a key into four random words.
//!
//! Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011, section 3.3.

/// Multipliers and key increments (the golden ratio and √3 − 1 in 32 bits) of Table 2 and section 3.3.
const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// `N` independent blocks at once, word-major (`counters[word][lane]`), so that the loops over lanes become SIMD.
#[inline(always)]
pub(crate) fn philox<const N: usize>(mut counters: [[u32; N]; 4], mut key: [u32; 2]) -> [[u32; N]; 4] {
    for _ in 0..ROUNDS {
        let [c0, c1, c2, c3] = counters;
        let mut next = [[0; N]; 4];
        for lane in 0..N {
            let p0 = u64::from(c0[lane]) * u64::from(MULTIPLIERS[0]);
            let p1 = u64::from(c2[lane]) * u64::from(MULTIPLIERS[1]);
            next[0][lane] = (p1 >> 32) as u32 ^ c1[lane] ^ key[0];
            next[1][lane] = p1 as u32;
            next[2][lane] = (p0 >> 32) as u32 ^ c3[lane] ^ key[1];
            next[3][lane] = p0 as u32;
        }
        counters = next;
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counters
}

/// One block.
pub(crate) fn philox_block(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    philox::<1>(counter.map(|word| [word]), key).map(|[word]| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `philox4x32 10` lines of the known-answer file of the Random123 distribution.
    const KNOWN_ANSWERS: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];

    #[test]
    fn gives_the_published_answers() {
        for (counter, key, answer) in KNOWN_ANSWERS {
            assert_eq!(philox_block(counter, key), answer, "counter {counter:08x?}, key {key:08x?}");
        }
    }

    #[test]
    fn lanes_do_not_mix() {
        let key = [3, 4];
        let counters: [[u32; 8]; 4] =
            std::array::from_fn(|word| std::array::from_fn(|lane| (lane as u32) << (8 * word)));
        let answers = philox(counters, key);
        for lane in 0..8 {
            assert_eq!(answers.map(|word| word[lane]), philox_block(counters.map(|word| word[lane]), key));
        }
    }
}
