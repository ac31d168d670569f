use burn::tensor::{Device, Int, Tensor, TensorData};
use immiscible_models::Condition;
use immiscible_random::{Key, Stream};

/// How labels enter a conditional network.
#[derive(Clone, Debug)]
pub struct ClassCondition {
    /// The number that stands for "no class".
    pub null: u32,
    /// Probability in [0, 1) of training a row without its class, for classifier-free guidance (Ho & Salimans 2022, arXiv
    /// 2207.12598).
    pub dropout: f64,
    /// For a network that attends to a text: the states of the text of every class, that of the null class included,
    /// `[classes, N, D]`.
    pub texts: Option<Tensor<3>>,
}

impl ClassCondition {
    /// Of a network that embeds the number of the class.
    pub fn new(null: u32, dropout: f64) -> Self {
        Self { null, dropout, texts: None }
    }

    /// The condition of samples of these classes.
    pub fn of(&self, classes: &[u32], device: &Device) -> Condition {
        let Some(texts) = &self.texts else {
            return Condition::classes(classes, device);
        };
        let rows: Vec<i64> = classes.iter().map(|&class| class.into()).collect();
        let rows = Tensor::<1, Int>::from_data(TensorData::new(rows, [classes.len()]), device);
        Condition::Text(texts.clone().select(0, rows))
    }

    /// The condition of a batch with these labels, some of them dropped. `key` is the step's.
    pub(crate) fn condition(&self, labels: &[u32], key: Key, device: &Device) -> Condition {
        let key = key.stream(Stream::CONDITION_DROP);
        let kept = |row, label| if key.uniform(row) < self.dropout { self.null } else { label };
        let classes: Vec<u32> = (0..).zip(labels).map(|(row, &label)| kept(row, label)).collect();
        self.of(&classes, device)
    }
}
