//! Encoded images to upright RGB pixels, with limits on what a file can ask for.

use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ImageDecoder, ImageError, ImageReader, ImageResult, Limits, RgbImage};

use crate::DataError;
use crate::bytes::Bytes;
use crate::file::MAX_BYTES;
use crate::jpeg;

pub(crate) const EXTENSIONS: [&str; 6] = ["bmp", "gif", "jpeg", "jpg", "png", "webp"];
/// Widest and highest image that is decoded.
pub(crate) const MAX_SIDE: u32 = 16_384;
/// Most bytes a decoder may allocate for one image.
pub(crate) const MAX_DECODED: u64 = 512 << 20;

/// Whether a name ends like that of an image.
pub(crate) fn is_image(name: &Path) -> bool {
    let extension = name.extension();
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// Width and height of the upright image, from the header.
pub(crate) fn size(bytes: &Bytes, path: &Path) -> Result<(u32, u32), DataError> {
    let refused = |reason: String| undecodable(path, &reason);
    if is_jpeg(bytes) {
        return jpeg::size(&bytes.all(MAX_BYTES, path)?).map_err(refused);
    }
    let mut decoder = decoder(ImageReader::new(BufReader::new(bytes.reader())), path)?;
    let orientation = decoder.orientation().map_err(|error| refused(error.to_string()))?;
    Ok(turned(decoder.dimensions(), orientation))
}

/// The upright image: transparency is dropped, grey becomes three equal channels, of an animation the first frame is
/// taken. One that a decoder can write to `out` with the size `wanted` is there, and not returned.
pub(crate) fn decode_to(
    bytes: &Bytes,
    path: &Path,
    wanted: (u32, u32),
    out: &mut [u8],
) -> Result<Option<RgbImage>, DataError> {
    let content = bytes.all(MAX_BYTES, path)?;
    if is_jpeg(bytes) {
        return jpeg::decode_to(&content, wanted, out).map_err(|reason| undecodable(path, &reason));
    }
    let mut decoder = decoder(ImageReader::new(Cursor::new(content)), path)?;
    let decode = || -> ImageResult<Option<RgbImage>> {
        let orientation = decoder.orientation()?;
        let kind = (decoder.dimensions(), decoder.color_type(), orientation);
        if kind == (wanted, ColorType::Rgb8, Orientation::NoTransforms)
            && decoder.total_bytes() == out.len() as u64
        {
            return decoder.read_image(out).map(|()| None);
        }
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        Ok(Some(image.into_rgb8()))
    };
    decode().map_err(|error| undecodable(path, &error.to_string()))
}

/// Width and height behind a change of the orientation.
pub(crate) fn turned((width, height): (u32, u32), orientation: Orientation) -> (u32, u32) {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    match orientation {
        Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH => (height, width),
        _ => (width, height),
    }
}

fn is_jpeg(bytes: &Bytes) -> bool {
    let mut start = [0; 2];
    bytes.read_at(0, &mut start).is_ok() && start == jpeg::START
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
