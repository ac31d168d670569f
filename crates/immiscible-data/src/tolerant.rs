use std::collections::{BTreeMap, BTreeSet};
use std::fs::OpenOptions;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use immiscible_random::{Key, Stream};
use serde::{Deserialize, Serialize};

use crate::fit::CENTER;
use crate::source::check_request;
use crate::{DataError, LatentInfo, ReadPixels, Source};

/// A sample that could not be read, and which one took its place: a line of `bad_files.jsonl`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BadSample {
    /// Its index.
    pub index: usize,
    /// Its file, where it has one of its own.
    pub path: Option<PathBuf>,
    /// What is wrong with it.
    pub reason: String,
    /// The sample that is read in its place; of the same class.
    pub replacement: usize,
}

/// A data set of which a few samples may be damaged: another of the same class is read in place of each.
///
/// Which one is a function of the index and of the files alone, so that the batches of a run that was interrupted go on as
/// they would have. Labels, order, noise and flips are those of the damaged sample's index.
pub struct Tolerant {
    source: Arc<dyn Source>,
    most: usize,
    found: Mutex<Found>,
}

#[derive(Default)]
struct Found {
    bad: BTreeMap<usize, BadSample>,
    log: Option<Log>,
}

struct Log {
    path: PathBuf,
    /// Indices that it has.
    listed: BTreeSet<usize>,
}

impl Log {
    fn list(&mut self, bad: &BadSample) -> io::Result<()> {
        match self.listed.insert(bad.index) {
            true => append(&self.path, &format!("{}\n", serde_json::to_string(bad)?)),
            false => Ok(()),
        }
    }
}

/// At the end of a file that need not exist yet.
fn append(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().create(true).append(true).open(path)?.write_all(text.as_bytes())
}

impl Tolerant {
    /// Lets up to `most` samples of `source` be damaged.
    pub fn new(source: impl Into<Arc<dyn Source>>, most: usize) -> Self {
        Self { source: source.into(), most, found: Mutex::default() }
    }

    /// The damaged samples that were met so far, by index.
    pub fn bad(&self) -> Vec<BadSample> {
        self.found().bad.values().cloned().collect()
    }

    /// Lists damaged samples in a file, one JSON object a line, behind those of an earlier run that it holds: those met so
    /// far, and from now on each when it is met. Bytes of it that are no such line are passed over.
    ///
    /// # Errors
    /// If the file is there and cannot be read, or what was met so far cannot be written: nothing that reading samples
    /// depends on. A line that cannot be written later is left out.
    pub fn log_to(&self, path: &Path) -> Result<(), DataError> {
        let bytes = match std::fs::read(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            bytes => bytes.map_err(|source| DataError::Io { path: path.into(), source })?,
        };
        let lines = bytes.split(|byte| *byte == b'\n');
        let before = lines.filter_map(|line| serde_json::from_slice::<BadSample>(line).ok());
        let mut log = Log { path: path.into(), listed: before.map(|bad| bad.index).collect() };
        let mut found = self.found();
        let write = |error| DataError::Write { path: path.into(), source: error };
        if bytes.last().is_some_and(|byte| *byte != b'\n') {
            // The line on which the process was killed.
            append(path, "\n").map_err(write)?;
        }
        found.bad.values().try_for_each(|bad| log.list(bad)).map_err(write)?;
        found.log = Some(log);
        Ok(())
    }

    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is read in place of the damaged `index`: the first sound sample of its class from a random one on.
    fn replace(
        &self,
        index: usize,
        error: DataError,
        mut read: impl FnMut(usize) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        let known = self.found().bad.get(&index).map(|bad| bad.replacement);
        if let Some(replacement) = known {
            return read(replacement);
        }
        let (len, label) = (self.source.len(), self.source.label(index));
        let uniform = Key::new(0).stream(Stream::REPLACEMENT).uniform(index as u64);
        let from = ((uniform * len as f64) as usize).min(len - 1);
        let others = (from..len).chain(0..from).filter(|&other| other != index);
        let mut tried = 0;
        for other in others.filter(|&other| self.source.label(other) == label) {
            match read(other) {
                Ok(()) => return self.note(index, other, error),
                Err(also) if also.is_damage() && tried < self.most => tried += 1,
                Err(also) if also.is_damage() => {
                    return Err(DataError::too_many(error, tried + 2, self.most, len));
                }
                Err(also) => return Err(also),
            }
        }
        Err(error)
    }

    /// Reads `index`, or another in its place.
    fn read_or_replace(
        &self,
        index: usize,
        mut read: impl FnMut(usize) -> Result<(), DataError>,
    ) -> Result<(), DataError> {
        match read(index) {
            Err(error) if error.is_damage() && self.most > 0 => self.replace(index, error, read),
            read => read,
        }
    }

    fn note(&self, index: usize, replacement: usize, error: DataError) -> Result<(), DataError> {
        let mut found = self.found();
        let (count, len) = (found.bad.len() + 1, self.source.len());
        if !found.bad.contains_key(&index) {
            if count > self.most {
                return Err(DataError::too_many(error, count, self.most, len));
            }
            let (path, reason) = (self.source.place(index), error.to_string());
            let bad = BadSample { index, path, reason, replacement };
            if let Some(log) = &mut found.log {
                let _ = log.list(&bad);
            }
            found.bad.insert(index, bad);
        }
        Ok(())
    }
}

impl Source for Tolerant {
    fn name(&self) -> &str {
        self.source.name()
    }

    fn len(&self) -> usize {
        self.source.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.source.shape()
    }

    fn classes(&self) -> Option<&[String]> {
        self.source.classes()
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.source.label(index)
    }

    fn place(&self, index: usize) -> Option<PathBuf> {
        self.source.place(index)
    }

    fn holds_real_numbers(&self) -> bool {
        self.source.holds_real_numbers()
    }

    fn latents(&self) -> Option<&LatentInfo> {
        self.source.latents()
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        self.read_crop(index, CENTER, out)
    }

    fn read_crop(&self, index: usize, place: [f32; 2], out: &mut [f32]) -> Result<(), DataError> {
        check_request(self, index, out)?;
        self.read_or_replace(index, |index| self.source.read_crop(index, place, out))
    }

    fn pixels(&self) -> Option<&dyn ReadPixels> {
        self.source.pixels().map(|_| self as &dyn ReadPixels)
    }
}

impl ReadPixels for Tolerant {
    fn read_pixels(&self, index: usize, place: [f32; 2], out: &mut [[u8; 3]]) -> Result<(), DataError> {
        let no_pixels = || DataError::NoPixels { name: self.name().into() };
        let pixels = self.source.pixels().ok_or_else(no_pixels)?;
        check_request(self, index, out.as_flattened())?;
        self.read_or_replace(index, |index| pixels.read_pixels(index, place, out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, Loader, LoaderOptions};

    /// Sample i is the number i of class i mod 2; those in `damaged` cannot be read.
    struct Numbers {
        damaged: Vec<usize>,
        classes: Vec<String>,
    }

    impl Source for Numbers {
        fn name(&self) -> &str {
            "numbers"
        }

        fn len(&self) -> usize {
            100
        }

        fn shape(&self) -> [usize; 3] {
            [1, 1, 1]
        }

        fn classes(&self) -> Option<&[String]> {
            Some(&self.classes)
        }

        fn label(&self, index: usize) -> Option<u32> {
            (index < 100).then_some(index as u32 % 2)
        }

        fn place(&self, index: usize) -> Option<PathBuf> {
            Some(format!("{index}.png").into())
        }

        fn read(&self, index: usize, out: &mut [f32]) -> Result<(), DataError> {
            check_request(self, index, out)?;
            if self.damaged.contains(&index) {
                return Err(DataError::Image { path: format!("{index}.png").into(), reason: "grey".into() });
            }
            out[0] = index as f32;
            Ok(())
        }
    }

    fn numbers(damaged: impl IntoIterator<Item = usize>, most: usize) -> Tolerant {
        let classes = ["even", "odd"].map(str::to_owned).to_vec();
        Tolerant::new(
            Arc::new(Numbers { damaged: damaged.into_iter().collect(), classes }) as Arc<dyn Source>,
            most,
        )
    }

    fn all(source: &Tolerant) -> Result<Batch, DataError> {
        Batch::read(source, (0..100).collect())
    }

    #[test]
    fn a_damaged_sample_is_replaced_by_one_of_its_class_whoever_asks_first() {
        let batch = all(&numbers([3, 50, 51], 3)).unwrap();
        let single = numbers([3, 50, 51], 3);
        for index in (0..100).rev() {
            let mut value = [0.0];
            single.read(index, &mut value).unwrap();
            assert_eq!(batch.images.values()[[index, 0, 0, 0]], value[0]);
            assert_eq!(value[0] as usize % 2, index % 2);
            assert_eq!(value[0] as usize == index, ![3, 50, 51].contains(&index));
        }
        let bad = single.bad();
        assert_eq!(bad.iter().map(|bad| bad.index).collect::<Vec<_>>(), [3, 50, 51]);
        assert_eq!(bad[0].path.as_deref(), Some(Path::new("3.png")));
        assert!(bad[0].reason.contains("grey"), "{}", bad[0].reason);
    }

    #[test]
    fn numbers_have_no_pixels() {
        let source = numbers([], 0);
        assert!(source.pixels().is_none());
        let error = source.read_pixels(0, [0.5; 2], &mut [[0; 3]]).unwrap_err();
        assert!(matches!(&error, DataError::NoPixels { name } if name == "numbers"), "{error}");
    }

    #[test]
    fn more_than_may_be_end_the_reading() {
        let error = all(&numbers([3, 50, 51], 2)).unwrap_err().to_string();
        assert!(error.contains("of 100 samples are damaged, and max_bad allows 2"), "{error}");
        let error = all(&numbers([3], 0)).unwrap_err();
        assert!(matches!(error, DataError::Image { .. }), "{error}");
        // A class without a sound sample.
        let evens = (0..100).filter(|index| index % 2 == 0);
        assert!(numbers(evens.clone(), 50).read(0, &mut [0.0]).is_err());
        numbers(evens, 50).read(1, &mut [0.0]).unwrap();
    }

    #[test]
    fn batches_go_on_after_an_interruption_and_the_list_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("bad_files.jsonl");
        let loader = || {
            let source = Arc::new(numbers([3, 50, 51], 3));
            source.log_to(&log).unwrap();
            let options = LoaderOptions { batch_size: 10, seed: 5, flip: true };
            (source.clone(), Loader::new(source as Arc<dyn Source>, options).unwrap())
        };
        let (_, whole) = loader();
        let whole: Vec<Batch> = (0..20).map(|step| whole.batch_at(step).unwrap()).collect();
        std::fs::remove_file(&log).unwrap();

        for steps in [0..7, 7..20] {
            let (_, part) = loader();
            for step in steps {
                assert_eq!(part.batch_at(step).unwrap(), whole[step as usize]);
            }
        }
        let text = std::fs::read_to_string(&log).unwrap();
        let mut lines: Vec<BadSample> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        lines.sort_by_key(|bad| bad.index);
        assert_eq!(lines.iter().map(|bad| bad.index).collect::<Vec<_>>(), [3, 50, 51], "each once: {text}");
        assert_eq!(lines[0].path.as_deref(), Some(Path::new("3.png")));
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hide_the_lines_around_them() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("bad_files.jsonl");
        let source = numbers([3, 50], 3);
        source.log_to(&log).unwrap();
        source.read(3, &mut [0.0]).unwrap();
        let torn = [std::fs::read(&log).unwrap(), b"\xff\xfe\0{".to_vec()].concat();
        std::fs::write(&log, torn).unwrap();

        let again = numbers([3, 50], 3);
        again.log_to(&log).unwrap();
        all(&again).unwrap();
        let bytes = std::fs::read(&log).unwrap();
        let lines = bytes.split(|byte| *byte == b'\n');
        let lines = lines.filter_map(|line| serde_json::from_slice::<BadSample>(line).ok());
        assert_eq!(lines.map(|bad| bad.index).collect::<Vec<_>>(), [3, 50], "each once");
    }
}
