use crate::source::{check_request, levels};
use crate::{DataError, Source};

/// Images held in memory as bytes, one byte a value: what the file formats of small data sets become, and the way in
/// for images that come from elsewhere.
pub struct InMemory {
    name: String,
    shape: [usize; 3],
    pixels: Vec<u8>,
    labels: Option<(Vec<u8>, Vec<String>)>,
    levels: [f32; 256],
}

impl InMemory {
    /// Unlabelled images; the byte `v` stands for `v/127.5 − 1`.
    ///
    /// # Shapes
    /// `pixels`: the images of `shape` `[C, H, W]` one after another, each in row-major order.
    ///
    /// # Errors
    /// [`DataError::Shape`] where `pixels` is not a whole number of images, at least one.
    pub fn new(name: impl Into<String>, shape: [usize; 3], pixels: Vec<u8>) -> Result<Self, DataError> {
        let size = shape.iter().try_fold(1usize, |size, &side| size.checked_mul(side)).unwrap_or(0);
        if size == 0 || pixels.is_empty() || !pixels.len().is_multiple_of(size) {
            return Err(DataError::Shape { shape, bytes: pixels.len() });
        }
        Ok(Self { name: name.into(), shape, pixels, labels: None, levels: levels(255) })
    }

    /// Gives every image a label; `classes` names them in order.
    ///
    /// # Errors
    /// [`DataError::LabelCount`] where there is not one label for each image, [`DataError::Label`] where a label names
    /// no class.
    pub fn with_labels(mut self, labels: Vec<u8>, classes: Vec<String>) -> Result<Self, DataError> {
        if labels.len() != self.len() {
            return Err(DataError::LabelCount { labels: labels.len(), images: self.len() });
        }
        if let Some(index) = labels.iter().position(|&label| usize::from(label) >= classes.len()) {
            let (label, classes) = (labels[index].into(), classes.len());
            return Err(DataError::Label { origin: self.name, index, label, classes });
        }
        self.labels = Some((labels, classes));
        Ok(self)
    }

    /// Sets the byte value that stands for 1, where it is not 255.
    pub(crate) fn with_white(mut self, white: u8) -> Self {
        self.levels = levels(white);
        self
    }
}

impl Source for InMemory {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.pixels.len() / self.shape.iter().product::<usize>()
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn classes(&self) -> Option<&[String]> {
        self.labels.as_ref().map(|(_, classes)| classes.as_slice())
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.0.get(index).copied().map(u32::from)
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        check_request(self, index, out)?;
        let pixels = &self.pixels[index * out.len()..][..out.len()];
        for (value, &pixel) in out.iter_mut().zip(pixels) {
            *value = self.levels[usize::from(pixel)];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_map_to_the_closed_interval() {
        let source = InMemory::new("two", [1, 1, 3], vec![0, 51, 255, 1, 2, 3]).unwrap();
        let mut out = [0.0; 3];
        source.read(0, &mut out).unwrap();
        assert_eq!(out, [-1.0, -0.6, 1.0]);
        let source = source.with_white(2);
        source.read(1, &mut out).unwrap();
        assert_eq!(out, [0.0, 1.0, 2.0]);
    }

    #[test]
    fn misfits_are_refused() {
        let name = "misfit";
        assert!(matches!(InMemory::new(name, [1, 2, 2], vec![0; 7]), Err(DataError::Shape { bytes: 7, .. })));
        assert!(matches!(InMemory::new(name, [1, 2, 2], vec![]), Err(DataError::Shape { bytes: 0, .. })));
        assert!(matches!(InMemory::new(name, [0, 2, 2], vec![0; 4]), Err(DataError::Shape { .. })));
        assert!(matches!(InMemory::new(name, [usize::MAX, 2, 2], vec![0; 4]), Err(DataError::Shape { .. })));

        let two = || InMemory::new(name, [1, 2, 2], vec![0; 8]).unwrap();
        let classes = || vec!["a".to_owned(), "b".to_owned()];
        assert!(matches!(
            two().with_labels(vec![0], classes()),
            Err(DataError::LabelCount { labels: 1, images: 2 })
        ));
        assert!(matches!(
            two().with_labels(vec![0, 2], classes()),
            Err(DataError::Label { index: 1, label: 2, classes: 2, .. })
        ));
        assert_eq!(two().with_labels(vec![0, 1], classes()).unwrap().label(1), Some(1));
    }
}
