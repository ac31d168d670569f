/// A type of cost that the solver reads as it is, without a copy: `f32` and `f64`.
pub trait Entry: sealed::Real {}

impl Entry for f32 {}
impl Entry for f64 {}

pub(crate) mod sealed {
    use std::{
        fmt,
        ops::{Mul, RangeInclusive, Sub},
    };

    use pulp::Simd;

    /// What the dense passes over rows need of a number.
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

        /// A vector of these numbers, with the instruction set that is chosen at run time.
        type Lanes<S: Simd>: Copy;

        fn of(x: f64) -> Self;

        fn finite(self) -> bool;

        fn narrow(self) -> f32;

        /// A slice of numbers in single precision.
        fn singles(slice: &[Self]) -> Option<&[f32]>;

        /// A slice as vectors, and what is left over.
        fn lanes<S: Simd>(slice: &[Self]) -> (&[Self::Lanes<S>], &[Self]);

        fn splat<S: Simd>(simd: S, x: Self) -> Self::Lanes<S>;

        fn minus<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;

        fn min<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;

        fn max<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;

        /// The bits that are set in either.
        fn or<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S>;

        fn least<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self;

        fn greatest<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self;

        fn sum<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self;
    }

    /// The functions of [`Real`] that have the name of the type in `pulp`.
    macro_rules! lanes {
        ($lanes:ident: $as_simd:ident, $splat:ident, $sub:ident, $min:ident, $max:ident, $or:ident, $least:ident,
            $greatest:ident, $sum:ident) => {
            type Lanes<S: Simd> = S::$lanes;

            #[inline(always)]
            fn lanes<S: Simd>(slice: &[Self]) -> (&[Self::Lanes<S>], &[Self]) {
                S::$as_simd(slice)
            }

            #[inline(always)]
            fn splat<S: Simd>(simd: S, x: Self) -> Self::Lanes<S> {
                simd.$splat(x)
            }

            #[inline(always)]
            fn minus<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S> {
                simd.$sub(a, b)
            }

            #[inline(always)]
            fn min<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S> {
                simd.$min(a, b)
            }

            #[inline(always)]
            fn max<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S> {
                simd.$max(a, b)
            }

            #[inline(always)]
            fn or<S: Simd>(simd: S, a: Self::Lanes<S>, b: Self::Lanes<S>) -> Self::Lanes<S> {
                simd.$or(a, b)
            }

            #[inline(always)]
            fn least<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self {
                simd.$least(a)
            }

            #[inline(always)]
            fn greatest<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self {
                simd.$greatest(a)
            }

            #[inline(always)]
            fn sum<S: Simd>(simd: S, a: Self::Lanes<S>) -> Self {
                simd.$sum(a)
            }
        };
    }

    impl Real for f32 {
        const INFINITY: Self = f32::INFINITY;
        const MAX: Self = f32::MAX;
        const ROUNDING: f64 = 1.0 / (1_u64 << 24) as f64;
        const COMFORTABLE: RangeInclusive<f64> = 1e-28..=1e37;

        lanes!(f32s: as_simd_f32s, splat_f32s, sub_f32s, min_f32s, max_f32s, or_f32s, reduce_min_f32s, reduce_max_f32s, reduce_sum_f32s);

        #[inline(always)]
        fn of(x: f64) -> Self {
            x as f32
        }

        #[inline(always)]
        fn finite(self) -> bool {
            self.is_finite()
        }

        #[inline(always)]
        fn narrow(self) -> f32 {
            self
        }

        #[inline(always)]
        fn singles(slice: &[Self]) -> Option<&[f32]> {
            Some(slice)
        }
    }

    impl Real for f64 {
        const INFINITY: Self = f64::INFINITY;
        const MAX: Self = f64::MAX;
        const ROUNDING: f64 = 1.0 / (1_u64 << 53) as f64;
        const COMFORTABLE: RangeInclusive<f64> = 1e-140..=1e140;

        lanes!(f64s: as_simd_f64s, splat_f64s, sub_f64s, min_f64s, max_f64s, or_f64s, reduce_min_f64s, reduce_max_f64s, reduce_sum_f64s);

        #[inline(always)]
        fn of(x: f64) -> Self {
            x
        }

        #[inline(always)]
        fn finite(self) -> bool {
            self.is_finite()
        }

        #[inline(always)]
        fn narrow(self) -> f32 {
            self as f32
        }

        #[inline(always)]
        fn singles(_: &[Self]) -> Option<&[f32]> {
            None
        }
    }
}
