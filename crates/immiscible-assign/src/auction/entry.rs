/// A type of cost that the solver reads as it is, without a copy: `f32` and `f64`.
pub trait Entry: sealed::Real {}

impl Entry for f32 {}
impl Entry for f64 {}

pub(crate) mod sealed {
    use std::{
        fmt,
        ops::{Mul, RangeInclusive, Sub},
    };

    /// What the dense passes over rows need of a number. They are written as plain loops over arrays, which the compiler
    /// turns into SIMD for whichever instruction set is chosen at run time.
    pub trait Real:
        Copy
        + PartialOrd
        + Sub<Output = Self>
        + Mul<Output = Self>
        + Default
        + Send
        + Sync
        + fmt::Debug
        + Into<f64>
        + 'static
    {
        const INFINITY: Self;
        const MAX: Self;
        /// Half the distance from 1 to the next number.
        const ROUNDING: f64;
        /// Magnitudes beyond which squares and sums of this type would over- or underflow.
        const COMFORTABLE: RangeInclusive<f64>;

        fn of(x: f64) -> Self;

        fn finite(self) -> bool;
    }

    impl Real for f32 {
        const INFINITY: Self = f32::INFINITY;
        const MAX: Self = f32::MAX;
        const ROUNDING: f64 = 1.0 / (1_u64 << 24) as f64;
        const COMFORTABLE: RangeInclusive<f64> = 1e-28..=1e37;

        #[inline(always)]
        fn of(x: f64) -> Self {
            x as f32
        }

        #[inline(always)]
        fn finite(self) -> bool {
            self.is_finite()
        }
    }

    impl Real for f64 {
        const INFINITY: Self = f64::INFINITY;
        const MAX: Self = f64::MAX;
        const ROUNDING: f64 = 1.0 / (1_u64 << 53) as f64;
        const COMFORTABLE: RangeInclusive<f64> = 1e-140..=1e140;

        #[inline(always)]
        fn of(x: f64) -> Self {
            x
        }

        #[inline(always)]
        fn finite(self) -> bool {
            self.is_finite()
        }
    }
}
