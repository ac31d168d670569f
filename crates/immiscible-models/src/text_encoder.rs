use std::path::Path;

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::{CLIPTextConfig, ClipTokenizer, Ctx, ModelError, Pretrained};

/// Texts to what a [`UNet2DConditionModel`](crate::UNet2DConditionModel) attends to: a tokenizer and the network behind it, the
/// folders `tokenizer/` and `text_encoder/` of Stable Diffusion.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    /// Texts to tokens.
    pub tokenizer: ClipTokenizer,
    /// Tokens to states.
    pub model: Pretrained<CLIPTextConfig>,
}

impl TextEncoder {
    /// Reads both folders, the network onto a device.
    ///
    /// # Errors
    /// Those of [`ClipTokenizer::from_pretrained`] and [`Pretrained::from_pretrained`], and [`ModelError::Config`] if the
    /// tokenizer has ids that the network has no embedding for.
    pub fn from_pretrained(tokenizer: &Path, model: &Path, device: &Device) -> Result<Self, ModelError> {
        let tokenizer = ClipTokenizer::from_pretrained(tokenizer)?;
        let vocabulary = Pretrained::<CLIPTextConfig>::config(model)?.vocab_size;
        if tokenizer.ids() > vocabulary {
            let remedy = format!(
                "the tokenizer beside it has ids up to {}; take that of the network",
                tokenizer.ids() - 1
            );
            return Err(ModelError::config("vocab_size", &vocabulary, remedy));
        }
        Ok(Self { tokenizer, model: Pretrained::from_pretrained(model, device)? })
    }

    /// The states of texts, which are cut to the length that the tokenizer's settings tell, or else to the longest that the
    /// network takes.
    ///
    /// # Shapes
    /// → `[B, N, D]`, as for [`Condition::Text`](crate::Condition::Text)
    ///
    /// # Errors
    /// [`ModelError::Text`]; see [`ClipTokenizer::encode`].
    pub fn encode(&self, texts: &[&str], device: &Device) -> Result<Tensor<3>, ModelError> {
        let most = self.model.config.max_position_embeddings;
        let length = self.tokenizer.max_length().map_or(most, |length| length.min(most));
        let ids = self.tokenizer.encode(texts, length)?;
        let ids: Vec<i64> = ids.into_iter().flatten().map(i64::from).collect();
        let ids: Tensor<2, Int> = Tensor::from_data(TensorData::new(ids, [texts.len(), length]), device);
        Ok(self.model.network.forward(ids, Ctx::default()).last_hidden_state)
    }
}
