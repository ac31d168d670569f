//! Encoded images to upright RGB pixels, with limits on what a file can ask for.

use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageReader, ImageResult, Limits, RgbImage};

use crate::DataError;
use crate::bytes::Bytes;
use crate::file::MAX_BYTES;

pub(crate) const EXTENSIONS: [&str; 6] = ["bmp", "gif", "jpeg", "jpg", "png", "webp"];
/// Widest and highest image that is decoded.
pub(crate) const MAX_SIDE: u32 = 16_384;
/// Most bytes a decoder may allocate for one image.
const MAX_DECODED: u64 = 512 << 20;

/// Whether a name ends like that of an image.
pub(crate) fn is_image(name: &Path) -> bool {
    let extension = name.extension();
    extension.is_some_and(|extension| EXTENSIONS.iter().any(|known| extension.eq_ignore_ascii_case(known)))
}

/// Width and height of the upright image, from the header.
pub(crate) fn size(bytes: &Bytes, path: &Path) -> Result<(u32, u32), DataError> {
    use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
    let mut decoder = decoder(ImageReader::new(BufReader::new(bytes.reader())), path)?;
    let (width, height) = decoder.dimensions();
    match decoder.orientation().map_err(|error| undecodable(path, &error.to_string()))? {
        Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH => Ok((height, width)),
        _ => Ok((width, height)),
    }
}

/// The upright image: transparency is dropped, grey becomes three equal channels, of an animation the first frame is
/// taken.
pub(crate) fn decode(bytes: &Bytes, path: &Path) -> Result<RgbImage, DataError> {
    let bytes = bytes.all(MAX_BYTES, path)?;
    if is_cut_jpeg(&bytes) {
        return Err(undecodable(path, "the JPEG data ends too early"));
    }
    let upright = is_plain_jpeg(&bytes);
    let mut decoder = decoder(ImageReader::new(Cursor::new(bytes)), path)?;
    let decode = || -> ImageResult<RgbImage> {
        let orientation = if upright { Orientation::NoTransforms } else { decoder.orientation()? };
        let mut image = DynamicImage::from_decoder(decoder)?;
        image.apply_orientation(orientation);
        Ok(image.into_rgb8())
    };
    decode().map_err(|error| undecodable(path, &error.to_string()))
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

/// Whether `bytes` are a JPEG file without EXIF data: its decoder would read the header again to find that out, which takes a
/// third of the time of a small image.
fn is_plain_jpeg(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const APP1: u8 = 0xe1;
    let mut segments = bytes.strip_prefix(&[0xff, 0xd8]).unwrap_or_default();
    while let [0xff, marker, high, low, rest @ ..] = segments {
        match *marker {
            START_OF_SCAN => return true,
            APP1 if rest.starts_with(b"Exif") => return false,
            _ => {}
        }
        // The length counts its own two bytes.
        let len = usize::from(u16::from_be_bytes([*high, *low])).saturating_sub(2);
        segments = rest.get(len..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use image::{ImageFormat, Rgb};

    use super::*;

    #[test]
    fn a_jpeg_is_turned_as_its_exif_says_wherever_that_stands() {
        // A TIFF of one entry, little-endian: orientation (0x112), one short, 6: a quarter turn to the right.
        let tiff = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let exif = [b"\xff\xe1\x00\x22Exif\0\0", &tiff[..]].concat();
        let mut plain = Cursor::new(Vec::new());
        let half = RgbImage::from_fn(16, 8, |x, _| Rgb([if x < 8 { 250 } else { 5 }; 3]));
        half.write_to(&mut plain, ImageFormat::Jpeg).unwrap();
        let plain = plain.into_inner();
        assert!(is_plain_jpeg(&plain));
        let upright = decode(&Bytes::of_memory(plain.clone()), Path::new("x")).unwrap();
        assert_eq!((upright.dimensions(), upright.get_pixel(0, 7).0[0] > 200), ((16, 8), true));

        // Behind the file's start, and behind a comment that looks like the start of the scan.
        let comment = [0xff, 0xfe, 0, 6, 0xff, 0xda, 0xff, 0xd9];
        for before in [&[][..], &comment] {
            let bytes = [&plain[..2], before, &exif, &plain[2..]].concat();
            assert!(!is_plain_jpeg(&bytes));
            let turned = decode(&Bytes::of_memory(bytes), Path::new("x")).unwrap();
            assert_eq!((turned.dimensions(), turned.get_pixel(0, 15).0[0] < 50), ((8, 16), true));
        }
        assert!(!is_plain_jpeg(&plain[..plain.len() / 8]), "the decoder says what is wrong");
    }
}
