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
                let square = gradient.powi_scalar(2).sum();
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
                let factor = self.factor.clone().reshape([1; D]);
                self.to.register(param.id, gradient * factor);
            }
        }
    }

    let mut norm = Norm {
        gradients: &gradients,
        squares: None,
    };
    module.visit(&mut norm);
    let Some(norm) = norm.squares.map(Tensor::sqrt) else {
        return (gradients, None);
    };
    if limit == 0.0 {
        return (gradients, Some(norm));
    }
    let factor = (norm.clone() + 1e-6).recip().mul_scalar(limit).clamp_max(1.0);
    let mut scale = Scale {
        from: gradients,
        to: GradientsParams::new(),
        factor,
    };
    module.visit(&mut scale);
    (scale.to, Some(norm))
}
