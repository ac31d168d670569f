//! Pixels of three bytes each to planes of real numbers, as networks read them.

use pulp::{Arch, NullaryFnOnce};

use crate::source::level;

/// Writes pixels to the red, the green and the blue plane of `out`, from −1 for black to 1 for white.
pub(crate) fn planes(pixels: &[[u8; 3]], out: &mut [f32]) {
    let (red, rest) = out.split_at_mut(pixels.len());
    let (green, blue) = rest.split_at_mut(pixels.len());
    Arch::new().dispatch(Planes { pixels, red, green, blue });
}

/// Compiled for every instruction set, because taking bytes apart three by three pays with wide vectors only.
struct Planes<'a> {
    pixels: &'a [[u8; 3]],
    red: &'a mut [f32],
    green: &'a mut [f32],
    blue: &'a mut [f32],
}

impl NullaryFnOnce for Planes<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { pixels, red, green, blue } = self;
        for (((&[r, g, b], red), green), blue) in pixels.iter().zip(red).zip(green).zip(blue) {
            *red = level(r, 255);
            *green = level(g, 255);
            *blue = level(b, 255);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::levels;

    #[test]
    fn planes_hold_the_levels_of_all_bytes() {
        let pixels: Vec<[u8; 3]> = (0..=255).map(|v: u8| [v, v.wrapping_mul(3), 255 - v]).collect();
        for count in [0, 1, 37, 256] {
            let mut out = vec![0.0; 3 * count];
            planes(&pixels[..count], &mut out);
            for (k, value) in out.into_iter().enumerate() {
                assert_eq!(value, levels(255)[usize::from(pixels[k % count][k / count])]);
            }
        }
    }
}
