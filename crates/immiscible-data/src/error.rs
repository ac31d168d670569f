use std::io;
use std::path::PathBuf;

/// What can go wrong between a data set on disk and a batch. Each message names the file or value and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The name is not in [`SOURCES`](crate::SOURCES).
    #[error("no data set is called `{name}`; choose one of {known}")]
    UnknownSource {
        /// The name asked for.
        name: String,
        /// The names that exist.
        known: String,
    },
    /// The data set lies on disk and `path` says not where.
    #[error("data set `{name}` needs the option `path`: {wanted}")]
    MissingPath {
        /// Name of the data set.
        name: String,
        /// What the path must lead to.
        wanted: &'static str,
    },
    /// An option that this data set does not use has been set.
    #[error("data set `{name}` does not use the option `{option}` here; remove it")]
    UnusedOption {
        /// Name of the data set.
        name: String,
        /// The option.
        option: &'static str,
    },
    /// `image_size` is out of range.
    #[error("image_size = {size} is out of range; choose 1 to {max}")]
    ImageSizeOption {
        /// The value given.
        size: usize,
        /// The largest one allowed.
        max: u32,
    },
    /// An option has no meaning without another.
    #[error("`{option}` needs `{needs}`; set both, or remove it")]
    OptionNeeds {
        /// The option that is set.
        option: &'static str,
        /// The one that is not.
        needs: &'static str,
    },
    /// `max_bad` is out of range.
    #[error("max_bad = {value} is out of range; choose a share from 0 to 1, such as 0.001")]
    MaxBad {
        /// The value given.
        value: f64,
    },
    /// `range` is no interval.
    #[error("range = [{low}, {high}] is no interval; write two finite numbers, the lower one first")]
    Range {
        /// What is to become −1.
        low: f64,
        /// What is to become 1.
        high: f64,
    },
    /// An array's values say nothing about their range.
    #[error(
        "{path} holds values of the type {found:?} in a range that it does not tell; set `range`, such as [-1, 1] or [0, 1]"
    )]
    NoRange {
        /// The file.
        path: PathBuf,
        /// The type of its values.
        found: String,
    },
    /// The shape of an array does not tell which axis is the channels.
    #[error(
        "{path} has the shape {shape:?}, which does not tell the channels from the pixels; set `layout` to nchw or nhwc"
    )]
    NoLayout {
        /// The file.
        path: PathBuf,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// More samples are damaged than may be.
    #[error(
        "{bad} of {len} samples are damaged, and max_bad allows {most}; mend or remove them, or raise it; the first: {first}"
    )]
    TooManyBad {
        /// Damaged samples found so far.
        bad: usize,
        /// Number of samples.
        len: usize,
        /// How many of them may be damaged.
        most: usize,
        /// What is wrong with the first.
        first: Box<DataError>,
    },
    /// The operating system refuses the file or folder.
    #[error("cannot read {path}: {source}; check the path and its permissions")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The folder holds none of the files that the data set is made of.
    #[error("{path} holds no {wanted}; point `path` at the folder that does")]
    NoFiles {
        /// The folder.
        path: PathBuf,
        /// What was looked for.
        wanted: String,
    },
    /// A gzip file is cut short or damaged.
    #[error("{path} is not a complete gzip file ({reason}); fetch it again")]
    Gzip {
        /// The file.
        path: PathBuf,
        /// What the decompressor says.
        reason: String,
    },
    /// A file is larger, after decompression, than is accepted.
    #[error(
        "{path} holds more than {limit} bytes after decompression, the most that is kept in memory; \
             is it the right file? large data sets belong in an image folder"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The limit in bytes.
        limit: u64,
    },
    /// A file does not have the format that its place says it has.
    #[error("{path} {reason}; fetch it again, or check that it is the right file")]
    Format {
        /// The file.
        path: PathBuf,
        /// How the content departs from the format.
        reason: String,
    },
    /// An array holds values of another type than is needed.
    #[error(
        "{path} holds values of the type {found:?}, but {wanted} is needed here; convert them and save them again"
    )]
    NpyType {
        /// The file.
        path: PathBuf,
        /// The type it holds.
        found: String,
        /// The types that are taken.
        wanted: &'static str,
    },
    /// An array has another number of axes than is needed.
    #[error(
        "{path} has the shape {shape:?}, but {wanted} is needed here; reshape the array and save it again"
    )]
    NpyShape {
        /// The file.
        path: PathBuf,
        /// Its shape.
        shape: Vec<usize>,
        /// What is needed.
        wanted: &'static str,
    },
    /// Neither one mask for all samples nor one for each.
    #[error("{found} masks for {samples} samples: give one for all, or one for each")]
    Masks {
        /// Number of masks.
        found: usize,
        /// Number of samples.
        samples: usize,
    },
    /// A value of an array cannot be taken over.
    #[error("{path} holds {value} at {index:?}, {outside}")]
    NpyValue {
        /// The file.
        path: PathBuf,
        /// The position on each axis, from 0.
        index: Vec<usize>,
        /// The value.
        value: String,
        /// What it is, and the remedy.
        outside: &'static str,
    },
    /// The operating system does not take the file.
    #[error("cannot write {path}: {source}; check the path, its permissions and the free space")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// An image file and its label file do not belong together.
    #[error(
        "{images_path} holds {images} images but {labels_path} holds {labels} labels; \
             fetch both from the same place"
    )]
    FileCounts {
        /// File of the images.
        images_path: PathBuf,
        /// Images in it.
        images: usize,
        /// File of the labels.
        labels_path: PathBuf,
        /// Labels in it.
        labels: usize,
    },
    /// A label names no class.
    #[error(
        "{origin}: sample {index} has the label {label}, but there are {classes} classes and labels count from 0"
    )]
    Label {
        /// The file or data set.
        origin: String,
        /// Index of the sample.
        index: usize,
        /// Its label.
        label: u32,
        /// Number of classes.
        classes: usize,
    },
    /// The labels given are not one for each image.
    #[error("{labels} labels for {images} images; give one label for each image")]
    LabelCount {
        /// Number of labels.
        labels: usize,
        /// Number of images.
        images: usize,
    },
    /// The bytes given are not a whole number of images, at least one.
    #[error("{bytes} bytes are not a whole number of images of shape [C, H, W] = {shape:?}, at least one")]
    Shape {
        /// Shape of an image.
        shape: [usize; 3],
        /// Number of bytes.
        bytes: usize,
    },
    /// An image file cannot be decoded.
    #[error("cannot decode the image {path}: {reason}; replace or remove the file")]
    Image {
        /// The file.
        path: PathBuf,
        /// What the decoder says.
        reason: String,
    },
    /// The images of a folder differ in size.
    #[error(
        "the image {path} is {width}×{height} pixels but {first} is {first_width}×{first_height}; \
             set `image_size` to crop and resize every image, or remove the odd ones"
    )]
    ImageSize {
        /// The image that differs.
        path: PathBuf,
        /// Its width in pixels.
        width: u32,
        /// Its height in pixels.
        height: u32,
        /// The image it is compared with, the first of the folder.
        first: PathBuf,
        /// Width of the first image in pixels.
        first_width: u32,
        /// Height of the first image in pixels.
        first_height: u32,
    },
    /// Some images lie in class folders and some beside them.
    #[error(
        "{loose} lies beside the class folders while {classed} lies in one; \
             move every image into a class folder, or none"
    )]
    LooseImage {
        /// An image outside the class folders.
        loose: PathBuf,
        /// An image inside one.
        classed: PathBuf,
    },
    /// The class folders are called train, test or val.
    #[error(
        "the sub-folders of {path} are splits ({found}), not classes; \
             set `split`, or point `path` at one of them"
    )]
    SplitsAsClasses {
        /// The folder.
        path: PathBuf,
        /// The names of its sub-folders.
        found: String,
    },
    /// A folder contains a link to a folder that contains it.
    #[error("{path} leads back to a folder that contains it; remove the link")]
    LinkLoop {
        /// The link.
        path: PathBuf,
    },
    /// A batch of this size cannot be drawn.
    #[error("batch_size = {batch_size} cannot be drawn from {len} samples; choose 1 to {len}")]
    BatchSize {
        /// The batch size.
        batch_size: usize,
        /// Number of samples.
        len: usize,
    },
    /// The data set is too long to be shuffled.
    #[error("{len} samples are more than the {max} that can be shuffled; split the data set")]
    TooManySamples {
        /// Number of samples.
        len: usize,
        /// The most that can be shuffled.
        max: u32,
    },
    /// Pixels are asked of a data set of numbers.
    #[error("the data set {name} has no pixels; read its values")]
    NoPixels {
        /// Name of the data set.
        name: String,
    },
    /// The index names no sample.
    #[error("sample {index} does not exist: there are {len}, counted from 0")]
    Index {
        /// The index asked for.
        index: usize,
        /// Number of samples.
        len: usize,
    },
    /// The buffer for a sample has the wrong length.
    #[error("a sample has {expected} values but the buffer holds {found}; give it the length C·H·W")]
    OutLength {
        /// Length of the buffer.
        found: usize,
        /// C·H·W.
        expected: usize,
    },
    /// An archive is refused, or cannot be unpacked.
    #[error("{path} {reason}; nothing of it was kept")]
    Archive {
        /// The archive.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A download did not arrive as it should.
    #[error("cannot fetch {url}: {reason}")]
    Fetch {
        /// Where it was to come from.
        url: String,
        /// What went wrong, and the remedy.
        reason: String,
    },
    /// The prefetch thread cannot be started.
    #[error("cannot start the prefetch thread: {0}; lower the number of running threads")]
    Thread(#[source] io::Error),
}

impl DataError {
    /// Whether a sample is at fault, rather than how it is asked for or what the operating system says about it: the same
    /// sample then fails whenever it is read.
    pub fn is_damage(&self) -> bool {
        matches!(
            self,
            Self::Image { .. }
                | Self::ImageSize { .. }
                | Self::Format { .. }
                | Self::NpyValue { .. }
                | Self::TooLarge { .. }
        )
    }

    /// The first of `bad` samples, where there are more than `most` of `len`.
    pub(crate) fn unless_few(bad: Vec<Self>, most: usize, len: usize) -> Result<(), Self> {
        let count = bad.len();
        match bad.into_iter().next() {
            Some(first) if count > most => Err(Self::too_many(first, count, most, len)),
            _ => Ok(()),
        }
    }

    /// A damaged sample where none may be is the whole story.
    pub(crate) fn too_many(first: Self, bad: usize, most: usize, len: usize) -> Self {
        match (most, bad) {
            (0, 1) => first,
            _ => Self::TooManyBad { bad, len, most, first: Box::new(first) },
        }
    }
}
