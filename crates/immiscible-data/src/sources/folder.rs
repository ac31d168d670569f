//! `folder`: a folder of image files. Each sub-folder is a class, and holds images at any depth; a folder with images
//! and no sub-folders has no labels.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::encoded::{Encoded, Labels, OPTIONS, Store};
use crate::bytes::Bytes;
use crate::file;
use crate::image_file::{EXTENSIONS, is_image};
use crate::{DataError, DataOptions, Source};

/// Names of splits, which are no classes.
const SPLITS: [&str; 6] = ["test", "testing", "train", "training", "val", "validation"];

/// Files of so many bytes together are held in memory: opening and reading a small one takes up to half as long as decoding it.
const HELD: u64 = 256 << 20;

struct Files {
    paths: Vec<PathBuf>,
    /// What is in them, if they are held.
    content: Option<Vec<Bytes>>,
}

impl Files {
    /// Reads them where they are no more than `most` bytes together.
    fn new(paths: Vec<PathBuf>, most: u64) -> Result<Self, DataError> {
        let opened = |path: &PathBuf| Bytes::open(path).map(|file| file.len());
        let lengths = paths.par_iter().map(opened).collect::<Result<Vec<_>, _>>()?;
        let read = |path: &PathBuf| Ok(Bytes::of_memory(Bytes::open(path)?.all(HELD, path)?.into_owned()));
        let content = match lengths.iter().sum::<u64>() <= most {
            true => Some(paths.par_iter().map(read).collect::<Result<_, _>>()?),
            false => None,
        };
        Ok(Self { paths, content })
    }
}

impl Store for Files {
    fn len(&self) -> usize {
        self.paths.len()
    }

    fn path(&self, index: usize) -> PathBuf {
        self.paths[index].clone()
    }

    fn bytes(&self, index: usize) -> Result<Bytes, DataError> {
        match &self.content {
            Some(content) => Ok(content[index].clone()),
            None => Bytes::open(&self.paths[index]),
        }
    }
}

/// Lists the folder.
pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&[&["path", "split"], &OPTIONS[..]].concat())?;
    let path = options.require_path("the folder of the images, with one sub-folder for each class")?;
    let root = options.split.map_or(path.to_owned(), |split| path.join(split.as_str()));

    let mut files = Vec::new();
    list(&root, &mut Vec::new(), &mut files)?;
    files.sort();
    if files.is_empty() {
        let wanted = format!("image with the extension {}", EXTENSIONS.join(", "));
        return Err(DataError::NoFiles { path: root, wanted });
    }
    let labels = classify(&root, &files)?;
    if let (None, Some((_, classes))) = (options.split, &labels)
        && classes.iter().all(|class| SPLITS.contains(&class.to_lowercase().as_str()))
    {
        return Err(DataError::SplitsAsClasses { path: root, found: classes.join(", ") });
    }
    Ok(Box::new(Encoded::open(options, Box::new(Files::new(files, HELD)?), labels)?))
}

/// Collects the image files below `folder`. Hidden entries and `__MACOSX`, which archives leave behind, are passed over;
/// links are followed, and `above` holds the folders on the way down so that a link to one of them is noticed.
fn list(folder: &Path, above: &mut Vec<PathBuf>, files: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let real = folder.canonicalize().map_err(|source| DataError::Io { path: folder.into(), source })?;
    if above.contains(&real) {
        return Err(DataError::LinkLoop { path: folder.into() });
    }
    above.push(real);
    for path in file::entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || name == "__MACOSX" {
            continue;
        }
        if path.is_dir() {
            list(&path, above, files)?;
        } else if is_image(&path) {
            files.push(path);
        }
    }
    above.pop();
    Ok(())
}

/// Takes the first folder below `root` on the way to each file as its class; classes are numbered in sorted order.
/// `None` where every file lies in `root` itself.
fn classify(root: &Path, files: &[PathBuf]) -> Result<Option<Labels>, DataError> {
    let class = |file: &PathBuf| {
        let inside = file.strip_prefix(root).unwrap_or(file);
        let first = inside.iter().next().unwrap_or_default().to_owned();
        (inside.components().count() > 1).then_some(first)
    };
    let found: Vec<_> = files.iter().map(class).collect();
    let (Some(classed), loose) =
        (found.iter().position(Option::is_some), found.iter().position(Option::is_none))
    else {
        return Ok(None);
    };
    if let Some(loose) = loose {
        return Err(DataError::LooseImage { loose: files[loose].clone(), classed: files[classed].clone() });
    }
    let mut classes: Vec<_> = found.iter().flatten().collect();
    classes.sort();
    classes.dedup();
    let labels = found
        .iter()
        .flatten()
        .filter_map(|class| classes.binary_search(&class).ok())
        .map(|i| i as u32)
        .collect();
    Ok(Some((labels, classes.iter().map(|class| class.to_string_lossy().into_owned()).collect())))
}

#[cfg(test)]
mod tests {
    use image::RgbImage;

    use super::*;

    #[test]
    fn files_are_held_or_read_again_and_then_may_not_change_their_size() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        for (most, held) in [(HELD, true), (1, false)] {
            RgbImage::new(2, 2).save(&path).unwrap();
            let files = Files::new(vec![path.clone()], most).unwrap();
            let source = Encoded::open(&DataOptions::new("folder"), Box::new(files), None).unwrap();
            source.read(0, &mut [0.0; 12]).unwrap();
            RgbImage::new(3, 2).save(&path).unwrap();
            let later = source.read(0, &mut [0.0; 12]);
            assert_eq!(later.is_ok(), held);
            assert!(held || matches!(later, Err(DataError::ImageSize { width: 3, .. })));
        }
    }
}
