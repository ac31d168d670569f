//! `folder`: a folder of image files. Each sub-folder is a class, and holds images at any depth; a folder with images
//! and no sub-folders has no labels.

use std::io::{BufRead, Cursor, Seek};
use std::path::{Path, PathBuf};

use image::imageops::{self, FilterType};
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, ImageResult, Limits, RgbImage};
use rayon::prelude::*;

use crate::file;
use crate::source::{check_request, levels};
use crate::{DataError, DataOptions, Source};

const EXTENSIONS: [&str; 6] = ["bmp", "gif", "jpeg", "jpg", "png", "webp"];
/// Names of splits, which are no classes.
const SPLITS: [&str; 6] = ["test", "testing", "train", "training", "val", "validation"];
/// Widest and highest image that is decoded.
const MAX_SIDE: u32 = 16_384;
/// Most bytes a decoder may allocate for one image.
const MAX_DECODED: u64 = 512 << 20;

/// Images are decoded when they are read: as RGB (transparency is dropped, grey becomes three equal channels), upright
/// by their EXIF orientation, the first frame of an animation.
struct Folder {
    name: String,
    files: Vec<PathBuf>,
    labels: Option<Labels>,
    shape: [usize; 3],
    image_size: Option<u32>,
    levels: [f32; 256],
}

/// Label of each file, and the names of the classes.
type Labels = (Vec<u32>, Vec<String>);

/// Lists the folder. Without `image_size` the header of every image is read, because all must have one size.
pub(crate) fn build(options: &DataOptions) -> Result<Box<dyn Source>, DataError> {
    options.allow(&["path", "split", "image_size"])?;
    let path = options.require_path("the folder of the images, with one sub-folder for each class")?;
    let root = options.split.map_or(path.to_owned(), |split| path.join(split.as_str()));
    let image_size = options.image_size.map(checked_size).transpose()?;

    let mut files = Vec::new();
    list(&root, &mut Vec::new(), &mut files)?;
    files.sort();
    let Some(first) = files.first() else {
        let wanted = format!("image with the extension {}", EXTENSIONS.join(", "));
        return Err(DataError::NoFiles { path: root, wanted });
    };
    let labels = classify(&root, &files)?;
    if let (None, Some((_, classes))) = (options.split, &labels)
        && classes.iter().all(|class| SPLITS.contains(&class.to_lowercase().as_str()))
    {
        return Err(DataError::SplitsAsClasses { path: root, found: classes.join(", ") });
    }
    // Every header is read now, so that a file that is no image shows before any work is done.
    let sizes: Vec<_> = files.par_iter().map(|file| size_of(file)).collect();
    let sizes: Vec<_> = sizes.into_iter().collect::<Result<_, _>>()?;
    let (width, height) = match image_size {
        Some(side) => (side, side),
        None => {
            for (file, size) in files.iter().zip(&sizes) {
                same_size(file, *size, first, sizes[0])?;
            }
            sizes[0]
        }
    };
    let shape = [3, height as usize, width as usize];
    Ok(Box::new(Folder { name: options.name.clone(), files, labels, shape, image_size, levels: levels(255) }))
}

fn checked_size(size: usize) -> Result<u32, DataError> {
    u32::try_from(size)
        .ok()
        .filter(|size| (1..=MAX_SIDE).contains(size))
        .ok_or(DataError::ImageSizeOption { size, max: MAX_SIDE })
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
        } else if let Some(extension) = path.extension()
            && EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known))
        {
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

/// Opens a decoder with limits on what it may allocate; the content says which format it is.
fn decoder<'a, R: BufRead + Seek + 'a>(
    reader: ImageReader<R>,
    path: &Path,
) -> Result<impl ImageDecoder + 'a, DataError> {
    let mut reader =
        reader.with_guessed_format().map_err(|source| DataError::Io { path: path.into(), source })?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED);
    reader.limits(limits.clone());
    let open = || {
        let decoder = reader.into_decoder()?;
        limits.reserve(decoder.total_bytes())?;
        Ok(decoder)
    };
    open().map_err(|error: ImageError| undecodable(path, &error.to_string()))
}

fn undecodable(path: &Path, reason: &str) -> DataError {
    DataError::Image { path: path.into(), reason: reason.split_whitespace().collect::<Vec<_>>().join(" ") }
}

/// Whether `bytes` are a JPEG file whose last scan has no end-of-image marker behind it. Its decoder would fill in grey.
/// Within a scan neither marker can occur, because there every byte ff has a 00 behind it (ITU-T T.81, B.1.1.5).
fn is_cut_jpeg(bytes: &[u8]) -> bool {
    const START_OF_SCAN: [u8; 2] = [0xff, 0xda];
    const END_OF_IMAGE: [u8; 2] = [0xff, 0xd9];
    let last = |marker| bytes.windows(2).rposition(|pair| pair == marker);
    bytes.starts_with(&[0xff, 0xd8]) && last(END_OF_IMAGE) < last(START_OF_SCAN)
}

/// Width and height of the upright image, from the header.
fn size_of(path: &Path) -> Result<(u32, u32), DataError> {
    use image::metadata::Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let reader = ImageReader::open(path).map_err(|source| DataError::Io { path: path.into(), source })?;
    let mut decoder = decoder(reader, path)?;
    let (width, height) = decoder.dimensions();
    match decoder.orientation().map_err(|error| undecodable(path, &error.to_string()))? {
        Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH => Ok((height, width)),
        _ => Ok((width, height)),
    }
}

fn same_size(
    path: &Path,
    (width, height): (u32, u32),
    first: &Path,
    (first_width, first_height): (u32, u32),
) -> Result<(), DataError> {
    if (width, height) == (first_width, first_height) {
        return Ok(());
    }
    Err(DataError::ImageSize {
        path: path.into(),
        width,
        height,
        first: first.into(),
        first_width,
        first_height,
    })
}

/// The upright image.
fn decode(path: &Path) -> Result<RgbImage, DataError> {
    let bytes = file::read(path)?;
    if is_cut_jpeg(&bytes) {
        return Err(undecodable(path, "the JPEG data ends too early"));
    }
    let mut decoder = decoder(ImageReader::new(Cursor::new(bytes)), path)?;
    let decode = || -> ImageResult<RgbImage> {
        let orientation = decoder.orientation()?;
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        Ok(image.into_rgb8())
    };
    decode().map_err(|error| undecodable(path, &error.to_string()))
}

/// The largest centred square of `image`, resized to `side` pixels.
fn square(image: &RgbImage, side: u32) -> RgbImage {
    let (width, height) = image.dimensions();
    let crop = width.min(height);
    let view = imageops::crop_imm(image, (width - crop) / 2, (height - crop) / 2, crop, crop);
    match crop == side {
        true => view.to_image(),
        false => imageops::resize(&*view, side, side, FilterType::Lanczos3),
    }
}

impl Source for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn len(&self) -> usize {
        self.files.len()
    }

    fn shape(&self) -> [usize; 3] {
        self.shape
    }

    fn classes(&self) -> Option<&[String]> {
        self.labels.as_ref().map(|(_, classes)| classes.as_slice())
    }

    fn label(&self, index: usize) -> Option<u32> {
        self.labels.as_ref()?.0.get(index).copied()
    }

    fn read(&self, index: usize, out: &mut [f32]) -> Result<(), DataError> {
        check_request(self, index, out)?;
        let file = &self.files[index];
        let mut image = decode(file)?;
        if let Some(side) = self.image_size {
            image = square(&image, side);
        }
        let [_, height, width] = self.shape;
        same_size(file, image.dimensions(), &self.files[0], (width as u32, height as u32))?;
        for (at, pixel) in image.pixels().enumerate() {
            for (channel, &value) in pixel.0.iter().enumerate() {
                out[channel * height * width + at] = self.levels[usize::from(value)];
            }
        }
        Ok(())
    }
}
