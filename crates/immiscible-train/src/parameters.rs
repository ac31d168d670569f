use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;

/// Gives every parameter its position in the module as id.
///
/// Optimiser states are stored under parameter ids, and fresh ids are random; weights and optimiser are separate
/// files, so the ids must follow from the structure for the two to meet again after a resume.
pub(crate) fn number_parameters<M: Module>(module: M) -> M {
    struct Number(u64);
    impl ModuleMapper for Number {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let (_, tensor, mapper) = param.consume();
            self.0 += 1;
            Param::from_mapped_value(ParamId::from(self.0), tensor, mapper)
        }
    }
    module.map(&mut Number(0))
}

/// The matrices between the first and the last layer, each with the number of its elements: what Muon is for. Tables of embeddings are none, nor is the layer whose
/// output is the network's.
pub(crate) fn hidden_matrices<M: Module>(module: &M) -> Vec<(ParamId, usize)> {
    /// The last layer of a transformer. That of a UNet is a convolution.
    const LAST: &str = "proj_out_2";
    #[derive(Default)]
    struct Matrices {
        path: Vec<(String, bool)>,
        found: Vec<(ParamId, usize)>,
    }
    impl ModuleVisitor for Matrices {
        fn enter_module(&mut self, name: &str, container_type: &str) {
            self.path.push((name.into(), container_type == "Struct:Embedding"));
        }
        fn exit_module(&mut self, _name: &str, _container_type: &str) {
            self.path.pop();
        }
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if D == 2 && !self.path.iter().any(|(name, table)| *table || name == LAST) {
                self.found.push((param.id, param.lazy_shape().num_elements()));
            }
        }
    }
    let mut matrices = Matrices::default();
    module.visit(&mut matrices);
    matrices.found
}

/// Scales the gradients so that their global L2 norm is at most `limit`, without reading a value back.
///
/// Returns the norm before clipping, `[1]`.
pub(crate) fn clip_global_norm<M: Module>(
    module: &M,
    gradients: GradientsParams,
    limit: f64,
) -> (GradientsParams, Option<Tensor<1>>) {
    struct Norm<'a> {
        gradients: &'a GradientsParams,
        squares: Option<Tensor<1>>,
    }
    impl ModuleVisitor for Norm<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.gradients.get::<D>(param.id) {
                let square = square_sum(gradient);
                self.squares = Some(match self.squares.take() {
                    Some(sum) => sum + square,
                    None => square,
                });
            }
        }
    }
    struct Scale {
        from: GradientsParams,
        to: GradientsParams,
        factor: Tensor<1>,
    }
    impl ModuleVisitor for Scale {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            if let Some(gradient) = self.from.remove::<D>(param.id) {
                self.to.register(param.id, times(gradient, &self.factor));
            }
        }
    }

    let mut norm = Norm { gradients: &gradients, squares: None };
    module.visit(&mut norm);
    let Some(norm) = norm.squares.map(Tensor::sqrt) else {
        return (gradients, None);
    };
    if limit == 0.0 {
        return (gradients, Some(norm));
    }
    let factor = (norm.clone() + 1e-6).recip().mul_scalar(limit).clamp_max(1.0);
    let mut scale = Scale { from: gradients, to: GradientsParams::new(), factor };
    module.visit(&mut scale);
    (scale.to, Some(norm))
}

/// The sum of the squares, `[1]`.
fn square_sum<const D: usize>(tensor: Tensor<D>) -> Tensor<1> {
    #[cfg(feature = "flex")]
    if crate::cpu::has(&tensor) {
        let device = tensor.device();
        return Tensor::from_data([crate::cpu::sum_of_squares(tensor)], &device);
    }
    tensor.powi_scalar(2).sum()
}

/// All values times `factor`, `[1]`.
fn times<const D: usize>(tensor: Tensor<D>, factor: &Tensor<1>) -> Tensor<D> {
    #[cfg(feature = "flex")]
    if crate::cpu::has(&tensor) {
        let factor: f32 = factor.clone().into_scalar();
        // Most gradients are shorter than the limit.
        if factor == 1.0 {
            return tensor;
        }
        let [scaled] = crate::cpu::change([tensor], [], |[values]: [&mut [f32]; 1], []: [&[f32]; 0]| {
            values.iter_mut().for_each(|value| *value *= factor);
        });
        return scaled;
    }
    tensor * factor.clone().reshape([1; D])
}

/// The sum of the squares of all parameters, `[1]`: not finite where one of them is not.
pub(crate) fn sum_of_squares<M: Module>(module: &M) -> Option<Tensor<1>> {
    #[derive(Default)]
    struct Squares(Option<Tensor<1>>);
    impl ModuleVisitor for Squares {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let square = square_sum(param.val());
            self.0 = Some(match self.0.take() {
                Some(sum) => sum + square,
                None => square,
            });
        }
    }
    let mut squares = Squares::default();
    module.visit(&mut squares);
    squares.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::module::list_param_ids;
    use burn::nn::LinearConfig;
    use burn::tensor::{Device, Distribution};
    use immiscible_models::{DiTConfig, NetworkConfig, UNet2DConfig};

    #[test]
    fn clipping_scales_the_whole_gradient_to_the_limit() {
        let device = Device::flex().autodiff();
        let module = number_parameters(LinearConfig::new(6, 4).init(&device));
        let x = Tensor::<2>::random([5, 6], Distribution::Normal(0.0, 1.0), &Device::flex());
        let gradients = || {
            let loss = module.forward(x.clone()).powi_scalar(2).sum();
            GradientsParams::from_grads(loss.backward(), &module)
        };
        let norm = |limit| -> (f32, f32) {
            let (clipped, before) = clip_global_norm(&module, gradients(), limit);
            let (_, after) = clip_global_norm(&module, clipped, 0.0);
            (before.unwrap().into_scalar(), after.unwrap().into_scalar())
        };
        let (before, after) = norm(0.5);
        assert!(before > 1.0 && (after - 0.5).abs() < 1e-4, "{before} → {after}");
        let (before, after) = norm(1e6);
        assert_eq!(before, after);
        let weight: Vec<f32> =
            gradients().get::<2>(module.weight.id).unwrap().into_data().try_into_vec_as().unwrap();
        let bias: Vec<f32> = gradients()
            .get::<1>(module.bias.as_ref().unwrap().id)
            .unwrap()
            .into_data()
            .try_into_vec_as()
            .unwrap();
        let expected = weight.iter().chain(&bias).map(|g| f64::from(*g).powi(2)).sum::<f64>().sqrt();
        assert!((f64::from(before) - expected).abs() < 1e-3 * expected);
    }

    #[test]
    fn hidden_matrices_are_neither_embeddings_nor_the_last_layer() {
        let device = Device::flex();
        let matrices = |config: NetworkConfig| {
            let network = number_parameters(config.tiny().init(&device).unwrap());
            (hidden_matrices(&network).len(), list_param_ids(&network).len())
        };
        // In each of two blocks two of the time's embedding, one of its modulation, four of attention and two that feed
        // forward; then the modulation of the end. Its tables, the patches' convolution and the last layer are none.
        let (found, _) = matrices(NetworkConfig::DiTTransformer2DModel(DiTConfig::default()));
        assert_eq!(found, 2 * (2 + 1 + 4 + 2) + 1);
        // Those of a UNet are in its attention and its embeddings of time.
        let (found, all) = matrices(NetworkConfig::UNet2DModel(UNet2DConfig::default()));
        assert!(found > 0 && 2 * found < all, "{found} of {all}");
    }

    #[test]
    fn ids_follow_from_the_structure() {
        let device = Device::flex();
        let ids = || {
            let module = number_parameters(LinearConfig::new(2, 3).init(&device));
            (module.weight.id, module.bias.map(|bias| bias.id))
        };
        assert_eq!(ids(), ids());
        assert_ne!(Some(ids().0), ids().1);
    }
}
