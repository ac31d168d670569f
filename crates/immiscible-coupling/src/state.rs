//! Files with what couplings learnt of a data set: little-endian, between a line that says what they are and a checksum.

use crate::{CouplingError, Moments, Price, Prices};
use ndarray::{Array1, Array2, ArrayView2};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs, path::Path};

/// The first line of [`Prices`]. The number changes with the format.
const HEADER: &[u8] = b"immiscible prices 1\n";
const CHECKSUM: usize = 32;

/// Writes a file, which is there as a whole or not at all.
pub(crate) fn write(path: &Path, header: &[u8], content: &[u8]) -> Result<(), CouplingError> {
    let mut bytes = [header, content].concat();
    bytes.extend(Sha256::digest(&bytes));
    let new = path.with_extension("new");
    let written = fs::write(&new, bytes).and_then(|()| fs::rename(&new, path));
    written.map_err(|error| CouplingError::state(path, error))
}

/// Reads what [`write`] wrote; `what` is what the file should hold, and `remedy` what to do if it does not.
pub(crate) fn read<T>(
    path: &Path,
    header: &[u8],
    what: &str,
    remedy: &str,
    parse: impl FnOnce(&mut Reader<'_>) -> Result<T, &'static str>,
) -> Result<T, CouplingError> {
    let bytes = fs::read(path).map_err(|error| CouplingError::state(path, error))?;
    let refuse = |reason: &str| CouplingError::state(path, format!("{reason}; {remedy}"));
    if !bytes.starts_with(header) {
        return Err(refuse(&format!("it holds no {what} that this version reads")));
    }
    let content = bytes.len().saturating_sub(CHECKSUM);
    let (content, checksum) = bytes.split_at(content.max(header.len()));
    if Sha256::digest(content)[..] != *checksum {
        return Err(refuse("its checksum is not that of its content"));
    }
    let mut reader = Reader(&content[header.len()..]);
    let parsed = parse(&mut reader).map_err(refuse)?;
    if reader.0.is_empty() { Ok(parsed) } else { Err(refuse("it is too long")) }
}

/// A SHA-256 of data: its shape, its values, and the labels if they matter.
pub(crate) fn hash(x0: ArrayView2<f32>, labels: Option<&[u32]>) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((x0.nrows() as u64).to_le_bytes());
    hash.update((x0.ncols() as u64).to_le_bytes());
    for row in x0.rows() {
        hash.update(row.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
    }
    hash.update(labels.unwrap_or_default().iter().flat_map(|label| label.to_le_bytes()).collect::<Vec<u8>>());
    hash.finalize().into()
}

impl Prices {
    /// Writes them to a file, which is there as a whole or not at all.
    ///
    /// # Errors
    /// [`CouplingError::State`] if it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), CouplingError> {
        let mut bytes = self.data.to_vec();
        let numbers = [self.k as u64, self.class_wise.into(), self.of.len() as u64];
        bytes.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
        for (label, Price { moments, kappa }) in &self.of {
            let Moments { mean, components, variances, rest } = moments;
            let numbers = [u64::from(*label), mean.len() as u64, variances.len() as u64];
            bytes.extend(numbers.into_iter().flat_map(u64::to_le_bytes));
            bytes.extend([*kappa, *rest].iter().chain(variances).flat_map(|value| value.to_le_bytes()));
            bytes.extend(mean.iter().chain(components).flat_map(|value| value.to_le_bytes()));
        }
        write(path, HEADER, &bytes)
    }

    /// Reads what [`save`](Self::save) wrote.
    ///
    /// # Errors
    /// [`CouplingError::State`] if it is not there, not such a file, or damaged.
    pub fn load(path: &Path) -> Result<Self, CouplingError> {
        read(path, HEADER, "state of priced_knn", "delete it to fit it anew", Self::parse)
    }

    fn parse(reader: &mut Reader<'_>) -> Result<Self, &'static str> {
        let data = reader.take()?;
        let (k, class_wise, labels) = (reader.number()?, reader.number()? != 0, reader.number()?);
        let mut of = BTreeMap::new();
        for _ in 0..labels {
            let label = u32::try_from(reader.number()?).map_err(|_| "a label is above 32 bits")?;
            let (d, r) = (reader.number()?, reader.number()?);
            let (kappa, rest) = (reader.float()?, reader.float()?);
            let variances = (0..r).map(|_| reader.float()).collect::<Result<_, _>>()?;
            let mean = Array1::from(reader.values(d)?);
            let components = Array2::from_shape_vec((r, d), reader.values(r.saturating_mul(d))?);
            let components = components.map_err(|_| "its sizes do not fit")?;
            of.insert(label, Price { moments: Moments { mean, components, variances, rest }, kappa });
        }
        Ok(Self { k, data, of, class_wise })
    }

    /// # Errors
    /// If they are for something else than what a coupling is about to use them for.
    pub(crate) fn check(
        &self,
        path: &Path,
        k: usize,
        class_wise: bool,
        data: &[u8; 32],
    ) -> Result<(), CouplingError> {
        let (what, remedy) = if self.k != k {
            ("number of candidates k", "delete it to fit it anew, or set coupling.k back")
        } else if self.class_wise != class_wise {
            ("value of class_wise", "delete it to fit it anew, or set coupling.class_wise back")
        } else if self.data != *data {
            ("data set", "delete it to fit it anew, or name another file")
        } else {
            return Ok(());
        };
        Err(CouplingError::StateOfOther { path: path.into(), what, remedy })
    }
}

/// What is not read yet.
pub(crate) struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    pub(crate) fn take<const N: usize>(&mut self) -> Result<[u8; N], &'static str> {
        let (first, rest) = self.0.split_first_chunk().ok_or("it ends too early")?;
        self.0 = rest;
        Ok(*first)
    }

    pub(crate) fn number(&mut self) -> Result<usize, &'static str> {
        usize::try_from(u64::from_le_bytes(self.take()?)).map_err(|_| "a number is too large")
    }

    pub(crate) fn float(&mut self) -> Result<f64, &'static str> {
        let value = f64::from_le_bytes(self.take()?);
        if value.is_finite() { Ok(value) } else { Err("a value is not finite") }
    }

    pub(crate) fn values(&mut self, count: usize) -> Result<Vec<f32>, &'static str> {
        let bytes = count.checked_mul(4).filter(|&bytes| bytes <= self.0.len()).ok_or("it ends too early")?;
        let (values, rest) = self.0.split_at(bytes);
        self.0 = rest;
        let values: Vec<f32> = values.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        if values.iter().all(|value| value.is_finite()) { Ok(values) } else { Err("a value is not finite") }
    }
}
