use crate::{MethodConfig, TrainError};
use burn::tensor::{Device, Tensor, TensorData};
use immiscible_models::Lpips;
use immiscible_schedule::{Distance as _, distance::PseudoHuber};

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
    ("lpips", perceptual),
    ("pseudo_huber", |_, _| Ok(Box::new(|a, b| per_sample(PseudoHuber { c: None }.of(a - b))))),
];

/// LPIPS of images that are brought to 224 pixels where they are smaller than 256, as in the code of Song et al. 2023. One
/// channel is taken for all three; of more the first three are.
fn perceptual(config: &MethodConfig, device: &Device) -> Result<Distance, TrainError> {
    let Some(path) = &config.lpips else {
        return Err(TrainError::Option {
            key: "method.lpips",
            value: "unset".into(),
            remedy: "give the weights of LPIPS(net=\"vgg\") as safetensors or pth, or set method.distance = pseudo_huber",
        });
    };
    let lpips = Lpips::from_file(path, device)?;
    let prepared = |x: Tensor<4>| {
        let [rows, channels, height, width] = x.dims();
        let x =
            if channels < 3 { x.narrow(1, 0, 1).expand([rows, 3, height, width]) } else { x.narrow(1, 0, 3) };
        if width < 256 { resize(x, 224) } else { x }
    };
    Ok(Box::new(move |a, b| lpips.forward(prepared(a), prepared(b))))
}

/// Bilinear interpolation to `side`×`side`, as products with the weights of rows and columns, which every device can
/// differentiate.
fn resize(x: Tensor<4>, side: usize) -> Tensor<4> {
    let [_, _, height, width] = x.dims();
    let device = &x.device();
    let weights = |from: usize| {
        let mut weights = vec![0.0_f32; side * from];
        for (i, row) in weights.chunks_exact_mut(from).enumerate() {
            let at = ((i as f64 + 0.5) * from as f64 / side as f64 - 0.5).clamp(0.0, (from - 1) as f64);
            let (below, share) = (at as usize, at.fract() as f32);
            row[below] += 1.0 - share;
            row[(below + 1).min(from - 1)] += share;
        }
        Tensor::<4>::from_data(TensorData::new(weights, [1, 1, side, from]), device)
    };
    weights(height).matmul(x).matmul(weights(width).swap_dims(2, 3))
}

/// The mean of every sample.
fn per_sample(x: Tensor<4>) -> Tensor<1> {
    x.flatten::<2>(1, 3).mean_dim(1).squeeze_dim(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of `torch.nn.functional.interpolate(x, size=5, mode="bilinear")` for x = [0, 1, 4], and the columns alike.
    #[test]
    fn resizing_is_bilinear() {
        let x = Tensor::<1>::from_floats([0.0, 1.0, 4.0], &Device::flex()).reshape([1, 1, 1, 3]);
        let found: Vec<f32> = resize(x.clone(), 5).into_data().try_into_vec_as().unwrap();
        let expected = [0.0, 0.4, 1.0, 2.8, 4.0];
        for row in found.chunks_exact(5) {
            assert!(row.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{row:?}");
        }
        let turned: Vec<f32> = resize(x.swap_dims(2, 3), 5).into_data().try_into_vec_as().unwrap();
        assert!((0..25).all(|i| (turned[i] - expected[i / 5]).abs() < 1e-6), "{turned:?}");
    }

    #[test]
    fn distances_have_their_definitions() {
        let device = Device::flex();
        let a = Tensor::<1>::from_floats([1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0], &device);
        let b = Tensor::<1>::from_floats([1.0, 0.0, 3.0, 3.0, 0.0, 0.0, 0.0, 0.0], &device);
        let [a, b] = [a, b].map(|x| x.reshape([2, 1, 2, 2]));
        let c = 0.00054 * 2.0_f32;
        for (name, expected) in [("l1", 0.75), ("l2", 1.25), ("pseudo_huber", (5.0 + c * c).sqrt() - c)] {
            let (_, build) = DISTANCES.iter().find(|(known, _)| *known == name).unwrap();
            let distance = build(&MethodConfig::default(), &device).unwrap();
            let found: Vec<f32> = distance(a.clone(), b.clone()).into_data().try_into_vec_as().unwrap();
            assert!((found[0] - expected).abs() < 1e-6 && found[1].abs() < 1e-9, "{name}: {found:?}");
        }
        assert!(DISTANCES.is_sorted_by(|a, b| a.0 < b.0));
    }
}
