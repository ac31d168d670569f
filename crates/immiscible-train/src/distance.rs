use crate::{MethodConfig, TrainError};
use burn::tensor::{Device, Tensor};

/// How far apart two batches of images are, sample by sample.
///
/// # Shapes
/// `[B, C, H, W]` twice → `[B]`
pub type Distance = Box<dyn Fn(Tensor<4>, Tensor<4>) -> Tensor<1> + Send + Sync>;

type Build = fn(&MethodConfig, &Device) -> Result<Distance, TrainError>;

/// Every distance of consistency training by name, sorted.
pub const DISTANCES: &[(&str, Build)] = &[
    ("l1", |_, _| Ok(Box::new(|a, b| per_sample((a - b).abs())))),
    ("l2", |_, _| Ok(Box::new(|a, b| per_sample((a - b).square())))),
    ("pseudo_huber", |_, _| Ok(Box::new(pseudo_huber))),
];

/// The mean of every sample.
fn per_sample(x: Tensor<4>) -> Tensor<1> {
    x.flatten::<2>(1, 3).mean_dim(1).squeeze_dim(1)
}

/// √(‖a − b‖² + c²) − c with c = 0.00054 √D (Song & Dhariwal 2024, arXiv 2310.14189, §3.3).
fn pseudo_huber(a: Tensor<4>, b: Tensor<4>) -> Tensor<1> {
    let dimensions: usize = a.dims()[1..].iter().product();
    let c = 0.00054 * (dimensions as f64).sqrt();
    let squared: Tensor<1> = (a - b).square().flatten::<2>(1, 3).sum_dim(1).squeeze_dim(1);
    (squared + c * c).sqrt() - c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_have_their_definitions() {
        let device = Device::flex();
        let a = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0], &device);
        let b = Tensor::<1>::from_floats([1.0, 0.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0], &device);
        let [a, b] = [a, b].map(|x| x.reshape([2, 1, 2, 2]));
        let c = 0.00054 * 2.0_f32;
        for (name, expected) in
            [("l1", 0.75), ("l2", 1.25), ("pseudo_huber", (5.0 + c * c).sqrt() - c)]
        {
            let (_, build) = DISTANCES.iter().find(|(known, _)| *known == name).unwrap();
            let distance = build(&MethodConfig::default(), &device).unwrap();
            let found: Vec<f32> = distance(a.clone(), b.clone()).into_data().try_into_vec_as().unwrap();
            assert!((found[0] - expected).abs() < 1e-6 && found[1].abs() < 1e-9, "{name}: {found:?}");
        }
        assert!(DISTANCES.is_sorted_by(|a, b| a.0 < b.0));
    }
}
